//! From the first byte to connection.open-ok.

use super::wire::{
    BODY, EXCLUSIVE, Fields, HEADER, Peer, Target, content_header, declare, frame, method,
    publish_method,
};
use super::{Check, checks, server};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    server_properties,
    garbage_for_a_header,
    amqp_1_0_header,
    unknown_version_header,
    login_amqplain,
    wrong_password_is_told,
    wrong_password_is_dropped,
    unknown_mechanism,
    frame_max_too_high,
    frame_max_too_low,
    frame_max_4096,
    channel_max_too_high,
    methods_before_login,
    no_header,
    no_login,
];

fn server_properties(target: &Target) -> CheckResult {
    let start = Peer::connect(target)?.start()?;
    equal(start.protocol(), (0, 9), "version in connection.start")?;
    equal(
        start.property("product").as_deref(),
        Some("RabbitMQ"),
        "product",
    )?;
    let version = start.property("version").unwrap_or_default();
    let numbers = version
        .split('.')
        .filter(|part| part.parse::<u32>().is_ok())
        .count();
    ensure(numbers >= 3, format!("version {version:?} is not semantic"))?;
    for name in ["platform", "information", "copyright", "cluster_name"] {
        ensure(
            start.property(name).is_some(),
            format!("no {name} in the server properties"),
        )?;
    }
    let (mechanisms, locales) = start.offers().unwrap_or_default();
    for name in ["PLAIN", "AMQPLAIN"] {
        let offered = mechanisms.split(' ').any(|mechanism| mechanism == name);
        ensure(offered, format!("{name} is not among {mechanisms:?}"))?;
    }
    equal(locales, "en_US", "locales")
}

/// Any wrong header is answered by the one that the broker speaks, and a close.
fn header_refused(target: &Target, header: &[u8]) -> CheckResult {
    let mut peer = Peer::connect(target)?;
    peer.send(header)?;
    equal(
        peer.read(8)?.as_deref(),
        Some(HEADER),
        "answer to a wrong header",
    )?;
    peer.expect_end()
}

fn garbage_for_a_header(target: &Target) -> CheckResult {
    header_refused(target, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    header_refused(target, &[0xff; 8])
}

fn amqp_1_0_header(target: &Target) -> CheckResult {
    let server = server(&target.url)?;
    if !server.is_warren && server.version >= (4, 0) {
        return Err(Stop::Skipped(
            "since 4.0 RabbitMQ speaks AMQP 1.0 itself".to_owned(),
        ));
    }
    header_refused(target, b"AMQP\x00\x01\x00\x00")?;
    header_refused(target, b"AMQP\x03\x01\x00\x00")
}

fn unknown_version_header(target: &Target) -> CheckResult {
    header_refused(target, b"AMQP\x00\x00\x09\x02")?;
    header_refused(target, b"AMQP\x01\x01\x00\x63")
}

fn login_amqplain(target: &Target) -> CheckResult {
    let long = |text: &str| Fields::new().long(text.as_bytes()).0;
    let response = Fields::new()
        .entry("LOGIN", b'S', &long(&target.user))
        .entry("PASSWORD", b'S', &long(&target.password));
    let start = Peer::connect(target)?.start()?;
    let mut peer = start.login(true, "AMQPLAIN", &response.0)?;
    peer.expect((10, 30))?;
    peer.tune((2047, 131_072, 0))?;
    peer.open_vhost(target)?;
    peer.close()
}

fn wrong_password_is_told(target: &Target) -> CheckResult {
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                For details see the broker logfile.";
    for user in [target.user.as_str(), "nobody-of-that-name"] {
        let start = Peer::connect(target)?.start()?;
        let mut peer = start.login_plain(user, "not the password", true)?;
        peer.expect_close(403, text)?;
    }
    Ok(())
}

/// A client that does not say that it understands a close gets none.
fn wrong_password_is_dropped(target: &Target) -> CheckResult {
    let start = Peer::connect(target)?.start()?;
    start
        .login_plain(&target.user, "not the password", false)?
        .expect_end()
}

fn unknown_mechanism(target: &Target) -> CheckResult {
    let mut peer = Peer::connect(target)?
        .start()?
        .login(true, "MAGIC", b"please")?;
    refused_or_dropped(&mut peer)
}

/// A close with any reason, or none: what matters is that it ends.
fn refused_or_dropped(peer: &mut Peer) -> CheckResult {
    peer.close_or_end().map(|_| ())
}

/// 530 with this text; RabbitMQ 3.10 drops the socket instead, after 3 s.
fn tuning_refused(peer: &mut Peer, text: &str) -> CheckResult {
    match peer.close_or_end()? {
        None => Ok(()),
        Some(found) => equal(found, (530, text.to_owned()), "connection.close"),
    }
}

fn frame_max_too_high(target: &Target) -> CheckResult {
    let mut peer = Peer::logged_in(target)?;
    peer.tune((2047, 1 << 30, 0))?;
    let text = "NOT_ALLOWED - negotiated frame_max = 1073741824 is higher than the maximum \
                allowed value (131072)";
    tuning_refused(&mut peer, text)
}

fn frame_max_too_low(target: &Target) -> CheckResult {
    let mut peer = Peer::logged_in(target)?;
    peer.tune((2047, 100, 0))?;
    let server = server(&target.url)?;
    let floor = if !server.is_warren && server.version >= (4, 1) {
        8192
    } else {
        4096
    };
    let text = format!(
        "NOT_ALLOWED - negotiated frame_max = 100 is lower than the minimum allowed value ({floor})"
    );
    tuning_refused(&mut peer, &text)
}

fn frame_max_4096(target: &Target) -> CheckResult {
    let server = server(&target.url)?;
    if !server.is_warren && server.version >= (4, 1) {
        let reason = "since 4.1 RabbitMQ refuses a frame_max below 8192";
        return Err(Stop::Skipped(reason.to_owned()));
    }
    let mut peer = Peer::tuned(target, (2047, 4096, 0))?;
    peer.open_channel(1)?;
    let queue = format!("conf.raw.small_frames.{:x}", std::process::id());
    peer.send(&declare(1, &queue, EXCLUSIVE, b""))?;
    peer.expect((50, 11))?;
    peer.send(&publish_method(1, "", &queue))?;
    peer.send(&content_header(1, 12_000))?;
    for _ in 0..3 {
        peer.send(&frame(BODY, 1, &[7; 4000]))?;
    }
    peer.send(&method(
        1,
        (60, 70),
        Fields::new().u16(0).short(&queue).u8(1),
    ))?;
    peer.expect((60, 71))?;
    let mut left = 12_000;
    peer.next()?;
    while left > 0 {
        let body = peer
            .next()?
            .ok_or_else(|| Stop::Failed("closed".to_owned()))?;
        ensure(
            body.kind == BODY && body.payload.len() <= 4096 - 8,
            "a frame is too large",
        )?;
        left -= body.payload.len();
    }
    peer.close()
}

fn channel_max_too_high(target: &Target) -> CheckResult {
    let mut peer = Peer::logged_in(target)?;
    peer.tune((4000, 131_072, 0))?;
    let text = "NOT_ALLOWED - negotiated channel_max = 4000 is higher than the maximum allowed \
                value (2047)";
    tuning_refused(&mut peer, text)
}

fn methods_before_login(target: &Target) -> CheckResult {
    let mut peer = Peer::connect(target)?.start()?.peer;
    let open_channel = method(1, (20, 10), Fields::new().short(""));
    peer.send(&open_channel)?;
    refused_or_dropped(&mut peer)
}

/// RabbitMQ waits 10 s (`handshake_timeout`); a Warren that the suite starts waits 3 s.
fn no_header(target: &Target) -> CheckResult {
    Peer::connect(target)?.expect_end()?;
    let mut half = Peer::connect(target)?;
    half.send(&HEADER[..5])?;
    half.expect_end()
}

fn no_login(target: &Target) -> CheckResult {
    let mut peer = Peer::connect(target)?.start()?.peer;
    refused_or_dropped(&mut peer)?;
    let mut peer = Peer::logged_in(target)?;
    refused_or_dropped(&mut peer)
}
