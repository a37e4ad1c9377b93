//! Options that are refused, each with the reason.

use crate::error::Kind;
use crate::format::ImageKind;
use crate::plan::{Filter, Options, Policy, Template, validate};

#[test]
fn contradictions_are_configuration_errors() {
    let sync = || Options { sync: true, ..Options::default() };
    let filter = Filter { kinds: vec![ImageKind::Base], ..Filter::default() };
    let glob = Filter { include: vec!["a[".into()], ..Filter::default() };
    let cases = [
        (Options { filter: filter.clone(), ..sync() }, "sync cannot be combined with filter"),
        (Options { policy: Some(Policy::NewSets), ..sync() }, "sync cannot be combined with policy"),
        (Options { subfolder: Some("{job}".into()), ..sync() }, "sync cannot be combined with subfolder"),
        (Options { max_delete: 1.5, ..sync() }, "max_delete is no share"),
        (Options { max_delete: f64::NAN, ..sync() }, "max_delete is no share"),
        (Options { filter: glob, ..Options::default() }, "a glob that cannot be read"),
        (Options { subfolder: Some("{sett}".into()), ..Options::default() }, "'{sett}' is not known"),
        (Options { subfolder: Some("a/../b".into()), ..Options::default() }, "'.' or '..'"),
        (Options { subfolder: Some("/a".into()), ..Options::default() }, "an empty folder"),
        (Options { subfolder: Some("a{".into()), ..Options::default() }, "'{' without '}'"),
    ];
    for (options, expected) in cases {
        let error = validate(&options).unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        assert!(error.to_string().contains(expected), "{error} lacks {expected}");
        assert!(error.hint.is_some(), "{error} says what to do");
    }
    for options in [sync(), Options { filter, policy: Some(Policy::NewImages), ..Options::default() }] {
        validate(&options).unwrap();
    }
}

#[test]
fn a_folder_name_is_never_taken_for_something_else() {
    let names = crate::plan::Names { job: "a/b".into(), host: "..".into() };
    let cases = [
        ("{job}", "x", "a_b"),
        ("{host}", "x", "_"),
        ("{set}", "../../etc/passwd", "_._.._etc_passwd"),
        ("{set}", "a:b", "a_b"),
        ("{set}", "", "_"),
        ("x/{date}", "", "x/2024-05-06"),
    ];
    for (template, set, expected) in cases {
        let rendered =
            Template::parse(template).unwrap().render(&names, set, Some(1_714_953_600_000_000_000), ":");
        assert_eq!(rendered.display(), expected, "{template} {set}");
    }
    let long = Template::parse("{set}").unwrap();
    let (a, b) = ("ä".repeat(200), "ä".repeat(201));
    let (a, b) = (long.render(&names, &a, None, ""), long.render(&names, &b, None, ""));
    assert!(a.as_bytes().len() <= 120 && a != b, "long names are cut and stay distinct");
    assert_eq!(Template::parse("{date}").unwrap().render(&names, "", None, "").display(), "undated");
}
