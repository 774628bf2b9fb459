//! `warren health`: whether the node on this machine answers. For container health checks, which
//! have no shell and no `curl`.
//!
//! It asks for the metrics, which need no login and are rendered by the node's own runtime: a node
//! that hangs does not answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// Where to ask, and how long to wait.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The node's metrics address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15692")]
    metrics_addr: SocketAddr,
    /// Seconds to wait for each step of the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Asks the node; gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    let address = arguments.metrics_addr;
    let status = ask(address, Duration::from_secs(arguments.timeout))
        .with_context(|| format!("no healthy node at {address}"))?;
    if status != 200 {
        anyhow::bail!("the node at {address} answers with status {status}");
    }
    println!("ok");
    Ok(0)
}

/// The HTTP status with which `/metrics` is answered.
fn ask(address: SocketAddr, timeout: Duration) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    // As long as `HTTP/1.1 200`: the rest of the answer does not matter.
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    let status = line
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|code| std::str::from_utf8(code).ok());
    let status = status.and_then(|code| code.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// What `ask` makes of a server that answers with `answer`.
    fn asked(answer: &'static [u8]) -> io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 12];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"GET /metrics");
            stream.write_all(answer).unwrap();
            // The client may have read enough and be gone.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // Read on, so that closing does not reset what was answered; the client may close with
            // some of it unread, which is an error here and none of ours.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let status = ask(address, Duration::from_secs(10));
        server.join().unwrap();
        status
    }

    #[test]
    fn the_status_decides() {
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(), 200);
        assert_eq!(
            asked(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap(),
            503
        );
        assert_eq!(
            asked(b"AMQP\0\0\x09\x01....").unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(asked(b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nobody_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(ask(address, Duration::from_secs(1)).is_err());
    }
}
