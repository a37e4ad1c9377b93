//! Many small images ask for more connections than a server takes.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use offsite_tests::backends::{Backend, Network, Sftp};
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

/// Passes everything on `most` connections at a time and hangs up on any further one. Gives its address and how often it
/// hung up.
fn full_house(upstream: SocketAddr, most: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let (told, open) = (refused.clone(), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            if open.load(SeqCst) >= most {
                told.fetch_add(1, SeqCst);
                continue;
            }
            open.fetch_add(1, SeqCst);
            let server = TcpStream::connect(upstream).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let open = open.clone();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
                open.fetch_sub(1, SeqCst);
            });
            let (mut from, mut to) = (server, client);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (address, refused)
}

#[test]
fn a_server_that_takes_few_connections_is_used_with_those() {
    let box_ = Sandbox::new();
    for set in 0..12 {
        let folder = box_.source().join(format!("set{set:02}"));
        std::fs::create_dir(&folder).unwrap();
        random_file(&folder.join("disk-b000.spf"), 4000, set);
        random_file(&folder.join("disk-b000-i001.spi"), 3000, 100 + set);
    }
    let backend = Sftp::start();
    let (address, refused) = full_house(backend.address(), 2);
    // No attempt is to spare: a refused connection is no failure of an image.
    let run = backend.through(address).run(&box_).args(["--attempts", "1", "--streams", "6"]).run();
    assert_eq!(run.code, Some(0), "{}", run.all());
    assert!(refused.load(SeqCst) > 0, "the limit was never met");
    backend.look(|dir| {
        assert_eq!(tree(&box_.source()), tree(dir));
        assert_eq!(debris(dir), Vec::<PathBuf>::new());
    });
}
