//! Reads what `strace -f -ttt -yy -xx` wrote: which bytes went where, in which order.
//!
//! A traced thread does not go on before strace has written the line of its call's end, so what
//! one thread did because of another's call comes after that call's end in the file. A position is
//! a line number.

use std::collections::HashMap;

/// The arguments for `strace` before the output file: the calls that write or sync, descriptors
/// with what they are, all strings in hexadecimal and not cut short.
pub(crate) const FLAGS: &[&str] = &[
    "-f",
    "-ttt",
    "-yy",
    "-xx",
    "-s",
    "65536",
    "-e",
    "trace=fdatasync,fsync,sync_file_range,sendmsg,sendto,write,writev,pwrite64,pwritev,pwritev2",
];

/// One call, from the line where it began to the line where it had ended.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    /// What the descriptor is: `TCP:[..]`, or a path in hexadecimal.
    pub(crate) target: String,
    /// What was written.
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Sync,
}

/// The calls that succeeded, in the order in which they began.
pub(crate) fn parse(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&str, Call> = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        // `PID TIME call(..) = result`
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((_, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        let failed = rest
            .rsplit(" = ")
            .next()
            .is_some_and(|r| r.starts_with('-'));
        if rest.starts_with("<...") {
            if let Some(mut call) = open.remove(thread)
                && !failed
            {
                call.end = at;
                calls.push(call);
            }
            continue;
        }
        let Some(call) = begun(at, rest) else {
            continue;
        };
        if rest.ends_with("<unfinished ...>") {
            open.insert(thread, call);
        } else if !failed {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

fn begun(at: usize, text: &str) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let kind = match name {
        "fdatasync" | "fsync" => Kind::Sync,
        "sendmsg" | "sendto" | "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
            Kind::Write
        }
        _ => return None,
    };
    // A descriptor is `17<what it is>`; TCP's has `->` in its brackets.
    let (_, described) = arguments.split_once('<')?;
    let end = match described.starts_with("TCP") {
        true => described.find("]>")? + 1,
        false => described.find('>')?,
    };
    Some(Call {
        begin: at,
        end: at,
        kind,
        target: described[..end].to_owned(),
        data: strings(&described[end..]),
    })
}

/// The bytes of all quoted strings, one after the other.
fn strings(text: &str) -> Vec<u8> {
    let quoted = text.split('"').skip(1).step_by(2);
    let escapes = quoted.flat_map(|string| string.split("\\x").skip(1));
    let bytes = escapes.filter_map(|pair| u8::from_str_radix(pair, 16).ok());
    bytes.collect()
}
