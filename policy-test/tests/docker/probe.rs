//! The static program of the tests' containers. Built by the tests with `rustc`, on its own.
//!
//! `probe ALLOWED FORBIDDEN... [--stay]`: its first instructions send to each forbidden address, by
//! UDP and by TCP, and it goes on with that all the time. Meanwhile it connects to the allowed
//! address and has one message echoed. Then it prints the milliseconds that took, and ends; with
//! `--stay` it begins anew with the allowed address after each answer or failure, for ever.

use std::{
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Between two rounds of forbidden packets.
const PAUSE: Duration = Duration::from_millis(5);
/// Enough for a SYN to leave; the answer is of no interest.
const SYN: Duration = Duration::from_millis(1);
/// Several retransmissions of a SYN.
const LIMIT: Duration = Duration::from_secs(15);
/// Of one attempt among many: one that began before there was a way must not hold up the next.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Between two of them: the server keeps every connection until it ends, and may have few files.
const REST: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let addresses: Vec<SocketAddr> =
        arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let Some((&allowed, forbidden)) = addresses.split_first() else { return ExitCode::from(2) };
    trespass(forbidden);
    let forbidden = forbidden.to_vec();
    thread::spawn(move || {
        loop {
            trespass(&forbidden);
            thread::sleep(PAUSE);
        }
    });
    let stay = arguments.iter().any(|word| word == "--stay");
    let limit = if stay { ATTEMPT } else { LIMIT };
    loop {
        let start = Instant::now();
        match exchange(allowed, limit) {
            Ok(()) => println!("{}", start.elapsed().as_millis()),
            Err(error) => eprintln!("{allowed}: {error}"),
        }
        if !stay {
            return ExitCode::SUCCESS;
        }
        thread::sleep(REST);
    }
}

/// Every failure is fine here: that is what the tests want.
fn trespass(forbidden: &[SocketAddr]) {
    for &to in forbidden {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        if let Ok(socket) = UdpSocket::bind(any) {
            let _ = socket.send_to(b"forbidden", to);
        }
        let _ = TcpStream::connect_timeout(&to, SYN);
    }
}

fn exchange(to: SocketAddr, limit: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"allowed")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)
}
