//! Runs of message ids in a command: ascending, never touching the one before out of order.
//!
//! Wire form: a count u32, then for each run the distance from the run before (LEB128), how many
//! ids follow the first (LEB128), and with counts the count (LEB128).

use bytes::{BufMut, BytesMut};
use warren_cluster_core::machine::Malformed;

use super::reader::Reader;

/// Checked runs `(first, last)`, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runs<'a>(Raw<'a>);

/// Checked runs `(first, last, count)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountedRuns<'a>(Raw<'a>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Raw<'a> {
    runs: u32,
    bytes: &'a [u8],
}

impl<'a> Runs<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Raw::decode::<false>(reader).map(Self)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let runs = self.0.iter::<false>();
        runs.map(|(first, last, _)| (first, last))
    }
}

impl<'a> CountedRuns<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Raw::decode::<true>(reader).map(Self)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u16)> + use<'a> {
        self.0.iter::<true>()
    }
}

impl<'a> Raw<'a> {
    /// Walks all runs once, so that [`Raw::iter`] cannot fail.
    fn decode<const COUNTED: bool>(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let runs = reader.u32()?;
        let mut walk = reader.clone();
        let mut end = 0;
        for _ in 0..runs {
            end = step::<COUNTED>(&mut walk, end)?.1;
        }
        let bytes = reader.take(walk.position() - reader.position())?;
        Ok(Self { runs, bytes })
    }

    fn iter<const COUNTED: bool>(
        &self,
    ) -> impl Iterator<Item = (u64, u64, u16)> + use<'a, COUNTED> {
        let mut reader = Reader::new("runs", self.bytes);
        let mut end = 0;
        (0..self.runs).map_while(move |_| {
            let run = step::<COUNTED>(&mut reader, end).ok()?;
            end = run.1;
            Some(run)
        })
    }
}

fn step<const COUNTED: bool>(
    reader: &mut Reader<'_>,
    end: u64,
) -> Result<(u64, u64, u16), Malformed> {
    let distance = reader.varint()?;
    let more = reader.varint()?;
    let count = if COUNTED { reader.varint()? } else { 0 };
    if distance == 0 {
        return Err(reader.malformed("runs do not ascend"));
    }
    let run = end
        .checked_add(distance)
        .and_then(|first| Some((first, first.checked_add(more)?)));
    let Some((first, last)) = run else {
        return Err(reader.malformed("run goes beyond the last id"));
    };
    let Ok(count) = u16::try_from(count) else {
        return Err(reader.malformed("count too large"));
    };
    Ok((first, last, count))
}

/// Appends runs; they must ascend.
pub(crate) fn encode_runs(out: &mut BytesMut, runs: &[(u64, u64)]) {
    out.put_u32_le(runs.len() as u32);
    let mut end = 0;
    for &(first, last) in runs {
        put_varint(out, first - end);
        put_varint(out, last - first);
        end = last;
    }
}

/// Appends runs with counts; they must ascend.
pub(crate) fn encode_counted(out: &mut BytesMut, runs: &[(u64, u64, u16)]) {
    out.put_u32_le(runs.len() as u32);
    let mut end = 0;
    for &(first, last, count) in runs {
        put_varint(out, first - end);
        put_varint(out, last - first);
        put_varint(out, u64::from(count));
        end = last;
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
