//! Servers that are not part of this project.

use std::net::TcpListener;

/// Tells that a test cannot run without this server: visibly, and where `TOWPATH_REQUIRE_SERVERS` is `1`, by failing.
#[cfg(any(feature = "sink-kafka", feature = "sink-redis"))]
pub(crate) fn missing(server: &str) {
    use std::io::Write;

    let required = std::env::var_os("TOWPATH_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "{server} is missing, and TOWPATH_REQUIRE_SERVERS asks for it");
    // Not by `eprintln!`, which the test harness keeps to itself when the test passes.
    let told = writeln!(std::io::stderr(), "\n!!! NOT RUN: {server} is missing; what is tested with it was not tested");
    told.unwrap();
}

/// A port of loopback on which nobody listens.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A listener that accepts nothing: connections to it are made by the operating system, and nobody speaks.
pub(crate) fn mute_listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}
