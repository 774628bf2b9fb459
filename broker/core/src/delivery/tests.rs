//! Scenarios as text: `testdata/*.txt`. Commands, `----`, and what came of them; a blank line
//! ends a scenario's step. `UPDATE_EXPECT=1` writes the files anew.

use std::fmt::Write;
use std::path::Path;

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};
use crate::message;
use crate::shard::effect::{Delivered, Effect};
use crate::shard::input::{Attach, Input, QueueConfig, Settle, Verdict, Window};
use crate::shard::rig::Rig;

// Scenarios lie in files, and are written anew when asked for.
#[allow(clippy::disallowed_methods)]
#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/delivery/testdata");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a scenario is text");
        let found = play(&text);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&file, &found).expect("the scenario can be written");
            continue;
        }
        assert!(found == text, "{}: found\n{found}", file.display());
    }
}

/// The scenario with what really came of it.
fn play(text: &str) -> String {
    let mut rig = Rig::new(!text.lines().any(|line| line == "# unlogged"));
    let mut hold = false;
    let mut out = String::new();
    for (at, step) in text.trim_end().split("\n\n").enumerate() {
        if at > 0 {
            out.push('\n');
        }
        for line in step.lines().take_while(|line| *line != "----") {
            writeln!(out, "{line}").expect("memory");
            if !line.starts_with('#') {
                command(&mut rig, line, &mut hold);
            }
        }
        if step.lines().any(|line| !line.starts_with('#')) {
            out.push_str("----\n");
        }
        for effect in std::mem::take(&mut rig.effects) {
            writeln!(out, "{}", show(&effect)).expect("memory");
        }
    }
    out
}

struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn at(&self, at: usize) -> &'a str {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        let found = self
            .0
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.map_or(default, |value| value.parse().expect("a number"))
    }

    fn queue(&self, at: usize) -> QueueId {
        queue(self.at(at))
    }

    /// `s1.2`: session 1's number 2.
    fn holder(&self, at: usize) -> Holder {
        let (session, number) = self.at(at).split_once('.').expect("session.number");
        Holder {
            session: session_of(session),
            number: number.parse().expect("a number"),
        }
    }
}

fn queue(word: &str) -> QueueId {
    QueueId(word[1..].parse().expect("q and a number"))
}

fn session_of(word: &str) -> SessionId {
    SessionId(word[1..].parse().expect("s and a number"))
}

fn command(rig: &mut Rig, line: &str, hold: &mut bool) {
    let words = Words(line.split_whitespace().collect());
    let (asker, token) = (SessionId(9), Token(0));
    match words.at(0) {
        "hold" => *hold = true,
        "commit" => *hold = false,
        "flush" => rig.flush(),
        "cold" => rig.store.cold = true,
        "warm" => rig.warm(),
        // Nothing happens but what the shard itself has asked for.
        "pass" => {
            if !rig.pass(words.at(1).parse().expect("milliseconds")) {
                return;
            }
        }
        "restart" => {
            let applied = rig.applied;
            rig.restart(&[], 0);
            assert_eq!(rig.applied, applied);
        }
        "publish" => {
            let queues: Vec<_> = words.at(1).split(',').map(queue).collect();
            let ttl = words.0.iter().find_map(|word| word.strip_prefix("ttl="));
            let ttl = ttl.map(|ttl| ttl.parse().expect("a number"));
            let bodies = words.0[2..].iter().filter(|word| !word.contains('='));
            for body in bodies {
                rig.publish(&queues, ttl, body.as_bytes());
            }
        }
        "fill" => {
            for number in 0..words.number("messages", 0) {
                let body = format!("m{}", number + 1);
                rig.publish(&[words.queue(1)], None, body.as_bytes());
            }
        }
        _ => rig.input(input(&words, asker, token)),
    }
    if !*hold {
        rig.commit();
    }
}

fn input(words: &Words<'_>, asker: SessionId, token: Token) -> Input {
    match words.at(0) {
        "create" => Input::Create {
            queue: words.queue(1),
            config: QueueConfig {
                auto_delete: words.has("auto-delete"),
                ..QueueConfig::default()
            },
        },
        "drop" => Input::Drop {
            queue: words.queue(1),
        },
        "close" => Input::Close {
            queue: words.queue(1),
            if_unused: words.has("if-unused"),
            if_empty: words.has("if-empty"),
            asker,
            token,
        },
        "attach" => attach(words, token),
        "detach" => Input::Detach {
            queue: words.queue(2),
            holder: words.holder(1),
            token,
        },
        "gone" => Input::Gone {
            queue: words.queue(2),
            holder: words.holder(1),
        },
        "credit" => Input::Credit {
            queue: words.queue(2),
            holder: words.holder(1),
            messages: words.number("messages", 0) as u32,
            bytes: words.number("bytes", 0),
        },
        "ack" => settle(words, Verdict::Ack),
        "reject" => settle(words, Verdict::Reject),
        "requeue" => settle(words, Verdict::Requeue { failed: false }),
        "fail" => settle(words, Verdict::Requeue { failed: true }),
        "barrier" => Input::SettleBarrier {
            session: session_of(words.at(1)),
            token,
        },
        "get" => Input::Get {
            queue: words.queue(2),
            holder: words.holder(1),
            auto_ack: words.has("auto-ack"),
            token,
        },
        "purge" => Input::Purge {
            queue: words.queue(1),
            asker,
            token,
        },
        "count" => Input::Count {
            queue: words.queue(1),
            asker,
            token,
        },
        "session-gone" => Input::SessionGone {
            session: session_of(words.at(1)),
        },
        other => unreachable!("no such command: {other}"),
    }
}

fn attach(words: &Words<'_>, token: Token) -> Input {
    Input::Attach(Attach {
        holder: words.holder(1),
        queue: words.queue(2),
        auto_ack: words.has("auto-ack"),
        exclusive: words.has("exclusive"),
        priority: words.number("priority", 0) as i32,
        prefetch: words.number("prefetch", 0) as u32,
        window: Window {
            messages: words.number("window", 1_000_000) as u32,
            bytes: words.number("bytes", 1_000_000),
        },
        token,
    })
}

/// `ack s1.1 q1 3..7`
fn settle(words: &Words<'_>, verdict: Verdict) -> Input {
    let range = words.at(3);
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    Input::Settle(Settle {
        queue: words.queue(2),
        holder: words.holder(1),
        first: MessageId(first.parse().expect("a number")),
        last: MessageId(last.parse().expect("a number")),
        verdict,
    })
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Deliver {
            session,
            number,
            queue,
            messages,
        } if messages.len() > 20 => format!(
            "deliver s{}.{number} q{} {} messages: {} .. {}",
            session.0,
            queue.0,
            messages.len(),
            show_message(&messages[0]),
            show_message(&messages[messages.len() - 1]),
        ),
        Effect::Deliver {
            session,
            number,
            queue,
            messages,
        } => {
            let messages: Vec<_> = messages.iter().map(show_message).collect();
            let messages = messages.join(", ");
            format!("deliver s{}.{number} q{} {messages}", session.0, queue.0)
        }
        Effect::Got {
            session,
            message,
            ready,
            ..
        } => {
            let message = message
                .as_ref()
                .map_or_else(|| "nothing".into(), show_message);
            format!("got s{} {message}, {ready} ready", session.0)
        }
        Effect::Attached { session, .. } => format!("attached s{}", session.0),
        Effect::Refused {
            session, refusal, ..
        } => format!("refused s{} {refusal:?}", session.0),
        Effect::Detached { session, .. } => format!("detached s{}", session.0),
        Effect::Cancelled {
            session,
            number,
            queue,
        } => format!("cancelled s{}.{number} q{}", session.0, queue.0),
        Effect::Settled { session, .. } => format!("settled s{}", session.0),
        Effect::Reply { reply, .. } => format!("{reply:?}"),
        Effect::Closed { queue, asked } => {
            let why = if *asked { "closed" } else { "unused" };
            format!("{why} q{}", queue.0)
        }
        Effect::Dropped { queue } => format!("dropped q{}", queue.0),
    }
}

fn show_message(message: &Delivered) -> String {
    let body = message::body(&message.message).expect("an encoded message");
    let mut out = format!("{}={}", message.id.0, String::from_utf8_lossy(&body));
    if message.redelivered {
        out.push_str(" again");
    }
    if message.delivery_count > 0 {
        write!(out, " failed {}", message.delivery_count).expect("memory");
    }
    out
}
