//! Names under the simulated kernel: of a listener, of the server behind a proxy, of a
//! directory. What a name means may change, and not all that it means need be there.

use threadbare::address::Place;
use threadbare::handlers::Echo;
use threadbare::kernel::sim::{At, Method, Simulated, Times};
use threadbare::{Errno, Server, ToAddresses};

/// Of a name, an address that this machine does not have kept the server from starting.
#[test]
fn an_address_of_a_name_that_is_not_here() {
    let name = |word: &str| {
        let addresses = ["[::1]:80", "127.0.0.1:80"].to_addresses().unwrap();
        Place::parse(word.as_ref()).unwrap().with(addresses)
    };
    let lacking = [
        (Method::Socket, Errno::EAFNOSUPPORT, "socket", "Address family not supported by protocol"),
        (Method::Bind, Errno::EADDRNOTAVAIL, "bind", "Cannot assign requested address"),
    ];
    for (method, errno, call, meaning) in lacking {
        let start = |times, index, place: Place| {
            let sim = Simulated::new(1);
            sim.fail(At::Of(method, index), errno, times);
            let started = Server::builder(Echo).kernel(sim.clone()).bind(place);
            (started, sim)
        };
        for (index, kept, lost) in [(0, "127.0.0.1:80", "[::1]:80"), (1, "[::1]:80", "127.0.0.1:80")]
        {
            let (server, sim) = start(Times::Once, index, name("there:80"));
            let server = server.unwrap();
            assert_eq!(server.addresses(), kept.to_addresses().unwrap());
            let line = format!("{call} there:80 ({lost}): {errno:?} ({meaning}); going on without");
            assert_eq!(server.warnings(), [line]);
            assert!(sim.connect(&server.addresses()[0]).is_ok());
        }
        let (failed, sim) = start(Times::UntilHealed, 0, name("there:80"));
        let due = format!("{call} there:80 (127.0.0.1:80): {errno:?} ({meaning})");
        assert_eq!((failed.unwrap_err().to_string(), sim.descriptors()), (due, 0));
        let (failed, sim) = start(Times::Once, 0, Place::parse("[::1]:80".as_ref()).unwrap());
        let due = format!("{call} [::1]:80: {errno:?} ({meaning})");
        assert_eq!((failed.unwrap_err().to_string(), sim.descriptors()), (due, 0));
        // Another failure is one, whatever else the name has.
        let sim = Simulated::new(1);
        sim.fail(At::Of(method, 0), Errno::EACCES, Times::Once);
        let failed = Server::builder(Echo).kernel(sim.clone()).bind(name("there:80")).unwrap_err();
        assert_eq!((failed.errno, failed.object.as_str()), (Errno::EACCES, "there:80 ([::1]:80)"));
    }
}
