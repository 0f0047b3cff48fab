//! The worker pool in a program: docs/programs/worker_pool.rs, which finds prime factors.

use crate::support::Server;

/// Hard questions of one client do not keep others waiting for the server, and a SIGTERM
/// in the midst of them lets each be answered.
#[test]
fn hard_questions_keep_nobody_waiting() {
    let mut server = Server::example("worker_pool", &["127.0.0.1:0"]);
    let (mut hard, mut easy) = (server.client(), server.client());
    hard.send("9999999999999937\n12\n13");
    hard.finish();
    for _ in 0..3 {
        easy.send("twelve\n");
        easy.expect("error: not a number of up to 18 digits\n");
    }
    easy.send("1001\n");
    easy.expect("1001: 7 11 13\n");
    server.signal(crate::support::Signal::SIGTERM);
    hard.expect_rest("9999999999999937: 9999999999999937\n12: 2 2 3\n13: 13\n");
    drop((hard, easy));
    assert_eq!(server.wait(), Some(0));
}
