//! What the boundary refuses, and the layout of ABI 1 as committed text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use abi_stable::StableAbi;
use abi_stable::library::{
    __call_root_module_loader, AbiHeaderRef, CheckTypeLayout, LibHeader, RootModule, RootModuleError,
    RootModuleResult,
};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RString, RVec};
use abi_stable::type_layout::TypeLayout;

use super::convert;
use super::host::{LoadError, Module};
use super::v1::{EntryV1, ExpectV1, ObjectV1, PluginV1Ref, SecretV1};
use crate::{Entry, ErrorKind, Expect, Object, Plugin, Token};

struct Nothing;

impl super::Export for Nothing {
    fn metadata() -> &'static [u8] {
        b"{}"
    }
    fn plugin() -> &'static dyn Plugin {
        unreachable!("never opened")
    }
}

fn as_ref(header: LibHeader) -> AbiHeaderRef {
    let leaked: &'static LibHeader = Box::leak(Box::new(header));
    // SAFETY: an AbiHeaderRef is a transparent reference to the start of a LibHeader.
    unsafe { std::mem::transmute(leaked) }
}

extern "C" fn good() -> RootModuleResult {
    __call_root_module_loader(super::plugin::root::<Nothing>)
}

extern "C" fn failing() -> RootModuleResult {
    RootModuleResult::RErr(RootModuleError::Unwound)
}

fn refusal(header: LibHeader) -> LoadError {
    Module::from_header(as_ref(header)).map(drop).expect_err("this header must be refused")
}

/// A module of another layout; `NAME` and version are given by the implementation below.
macro_rules! other_module {
    ($module:ident, $name:expr, $version:expr) => {
        // Read through the header only.
        #[allow(dead_code)]
        mod $module {
            use super::*;

            #[repr(C)]
            #[derive(StableAbi)]
            #[sabi(kind(Prefix(prefix_ref = OtherRef, prefix_fields = OtherPrefix)))]
            pub struct Other {
                #[sabi(last_prefix_field)]
                metadata: extern "C" fn() -> u8,
            }

            impl RootModule for OtherRef {
                abi_stable::declare_root_module_statics! {OtherRef}
                const BASE_NAME: &'static str = "offsite_plugin";
                const NAME: &'static str = $name;
                const VERSION_STRINGS: VersionStrings = VersionStrings::new($version);
            }

            pub fn header() -> LibHeader {
                extern "C" fn byte() -> u8 {
                    0
                }
                LibHeader::from_module(Other { metadata: byte }.leak_into_prefix())
            }
        }
    };
}

other_module!(other_layout, PluginV1Ref::NAME, "1.0.0");
other_module!(other_name, "something else", "1.0.0");
other_module!(other_version, PluginV1Ref::NAME, "2.0.0");

#[test]
fn a_good_header_loads_twice() {
    // SAFETY: `good` returns a PluginV1Ref.
    let header = unsafe { LibHeader::from_constructor::<PluginV1Ref>(good, CheckTypeLayout::Yes) };
    let header = as_ref(header);
    assert_eq!(Module::from_header(header).expect("a good header").abi_version(), 1);
    assert!(Module::from_header(header).is_ok());
}

#[test]
fn a_header_without_a_layout_is_refused() {
    // SAFETY: `good` returns a PluginV1Ref.
    let error = refusal(unsafe { LibHeader::from_constructor::<PluginV1Ref>(good, CheckTypeLayout::No) });
    assert!(matches!(error, LoadError::NoLayout), "{error:?}");
    assert!(error.to_string().contains("carries no layout"), "{error}");
}

#[test]
fn another_layout_is_refused_in_one_sentence_with_the_dump_apart() {
    let error = refusal(other_layout::header());
    assert!(matches!(error, LoadError::LayoutMismatch { .. }), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert!(error.details().is_some_and(|d| d.lines().count() > 10), "{error:?}");
}

#[test]
fn another_module_or_version_is_refused_by_name() {
    for (header, found) in
        [(other_name::header(), "something else (1.0.0)"), (other_version::header(), "(2.0.0)")]
    {
        let error = refusal(header);
        assert!(matches!(&error, LoadError::UnknownAbi { found: f } if f.contains(found)), "{error:?}");
        assert!(error.to_string().contains("this host speaks offsite plugin, ABI 1"), "{error}");
    }
}

#[test]
fn a_module_that_does_not_start_is_refused() {
    // SAFETY: `failing` never returns a module.
    let error = refusal(unsafe { LibHeader::from_constructor::<PluginV1Ref>(failing, CheckTypeLayout::Yes) });
    assert!(matches!(error, LoadError::Start { .. }), "{error:?}");
}

#[test]
fn another_abi_stable_is_refused() {
    // SAFETY: `good` returns a PluginV1Ref.
    let header = unsafe { LibHeader::from_constructor::<PluginV1Ref>(good, CheckTypeLayout::Yes) };
    let leaked: &'static mut LibHeader = Box::leak(Box::new(header));
    // SAFETY: the header starts with its magic string.
    unsafe { *std::ptr::from_mut(leaked).cast::<u8>() ^= 1 };
    // SAFETY: as in `as_ref`.
    let error =
        Module::from_header(unsafe { std::mem::transmute::<&'static LibHeader, AbiHeaderRef>(leaked) });
    assert!(matches!(error, Err(LoadError::Header { .. })));
}

#[test]
fn records_that_make_no_sense_are_errors() {
    let entry = |path: &[u8]| {
        let mut wire = EntryV1::from(Entry::file(crate::TargetPath::root(), 1));
        wire.path = path.into();
        Entry::try_from(wire)
    };
    for path in [&b"../up"[..], b"/etc/passwd", b"a//b", b"a\0b", b"a\nb", b"./x"] {
        assert_eq!(
            entry(path).expect_err("a bad path").kind(),
            &ErrorKind::NameRefused,
            "{}",
            path.escape_ascii()
        );
    }
    assert!(entry(b"a/b").is_ok());
    let expect = Expect::try_from(ExpectV1 { kind: 3, version: RString::new() });
    assert_eq!(expect.expect_err("an unknown kind").kind(), &ErrorKind::Unsupported);
    let object = Object::try_from(ObjectV1 { kind: 2, bytes: RVec::new() });
    assert_eq!(object.expect_err("an unknown kind").kind(), &ErrorKind::Unsupported);
    assert!(convert::token(&vec![0; Token::MAX]).is_ok());
    assert_eq!(convert::token(&vec![0; Token::MAX + 1]).expect_err("too long").kind(), &ErrorKind::Corrupt);
    let caps = convert::from_json::<crate::Capabilities>("capabilities", "{\"copy\":3}");
    assert_eq!(caps.expect_err("not a bool").kind(), &ErrorKind::Corrupt);
    let secret = SecretV1 { name: "n".into(), value: vec![0xff].into() };
    assert_eq!(
        convert::secrets_back(vec![secret].into()).expect_err("no text").kind(),
        &ErrorKind::InvalidConfig
    );
}

/// A type's name with what it is made of, which abi_stable's own name leaves out for generic types.
fn shown(layout: &TypeLayout, depth: u32) -> String {
    let name = layout.full_type().to_string().replace("'a", "").replace(' ', "").replace("<>", "");
    let simple = name.contains('<')
        || name.starts_with(['&', '*', '['])
        || ["RString", "RStr"].contains(&name.as_str());
    if depth == 0 || simple || layout.package() == env!("CARGO_PKG_NAME") {
        return name;
    }
    let fields = layout.get_fields().into_iter().flat_map(|f| f.iter()).chain(layout.phantom_fields().iter());
    let inner: BTreeSet<_> =
        fields.filter(|f| f.function_range().is_empty()).map(|f| shown(f.layout(), depth - 1)).collect();
    // What every vector has says nothing about this one.
    let telling = |name: &str| !["usize", "VTable", "NonNull", "*const"].iter().any(|n| name.contains(n));
    let bare =
        |n: &str| n.strip_prefix("PhantomData<").and_then(|n| n.strip_suffix('>')).unwrap_or(n).to_owned();
    let inner: Vec<_> = inner.iter().filter(|n| telling(n)).map(|n| bare(n)).collect();
    if inner.is_empty() { name } else { format!("{name}<{}>", inner.join(", ")) }
}

/// Every type that ABI 1 reaches: size and alignment; for this crate's also fields with their types and the
/// signatures of functions (the other types' own layout is pinned with abi_stable).
fn layouts() -> String {
    fn walk(layout: &'static TypeLayout, seen: &mut Vec<(&'static TypeLayout, String)>) {
        let id = layout.get_utypeid();
        if seen.iter().any(|(l, _)| l.get_utypeid() == id) {
            return;
        }
        let at = seen.len();
        seen.push((layout, String::new()));
        let mut text =
            format!("{}: size {}, align {}\n", shown(layout, 4), layout.size(), layout.alignment());
        let ours = layout.package() == env!("CARGO_PKG_NAME");
        let mut next = Vec::new();
        for field in
            layout.get_fields().into_iter().flat_map(|f| f.iter()).chain(layout.phantom_fields().iter())
        {
            let functions = field.function_range();
            if ours && functions.is_empty() {
                let _ = writeln!(text, "    {}: {}", field.name(), shown(field.layout(), 4));
            }
            for function in functions.iter() {
                let arguments: Vec<_> = function.param_type_layouts.iter().map(|make| make()).collect();
                let result = function.return_type_layout().map(|make| make());
                if ours {
                    let list: Vec<_> = arguments.iter().map(|l| shown(l, 4)).collect();
                    let result = result.map_or_else(|| "()".to_owned(), |l| shown(l, 4));
                    let _ = writeln!(text, "    fn {}({}) -> {result}", field.name(), list.join(", "));
                }
                next.extend(arguments);
                next.extend(result);
            }
            next.push(field.layout());
        }
        seen[at].1 = text;
        for layout in next {
            walk(layout, seen);
        }
    }
    let mut seen = Vec::new();
    walk(PluginV1Ref::LAYOUT, &mut seen);
    let texts: BTreeSet<_> = seen.into_iter().map(|(_, text)| text).collect();
    let version = PluginV1Ref::VERSION_STRINGS.version;
    format!("{} ({version})\n{}", PluginV1Ref::NAME, texts.into_iter().collect::<String>())
}

#[test]
fn the_layout_of_abi_1_is_the_committed_one() {
    let found = layouts();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/abi/v1.layout.txt");
    if std::env::var_os("OFFSITE_ACCEPT_LAYOUT").is_some() {
        std::fs::write(file, &found).expect("the snapshot can be written");
    }
    let committed = std::fs::read_to_string(file).expect("the snapshot can be read");
    for (found, committed) in found.lines().zip(committed.lines()) {
        assert_eq!(found, committed, "a type that ABI 1 reaches has changed: make it a new ABI instead");
    }
    assert_eq!(
        found.lines().count(),
        committed.lines().count(),
        "ABI 1 reaches more or fewer types than before"
    );
}
