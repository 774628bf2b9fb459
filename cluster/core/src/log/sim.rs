//! A disk in memory that does what disks do: answers late and in any order, tears what was not
//! synced when the power goes, rots, fills up, hangs. Deterministic: one seed, one behaviour.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::log::disk::{Completion, Data, DiskError, FileName, Op, Queue, RecoveryDisk};

const SECTOR: usize = 512;

/// See the module. The test decides when an operation completes ([`SimDisk::complete_one`]).
#[derive(Clone)]
pub struct SimDisk {
    random: u64,
    files: BTreeMap<FileName, File>,
    waiting: Vec<Op>,
    bytes_limit: u64,
    stalled: bool,
    failing: bool,
    /// Bytes written since the start, for tests that count.
    written_bytes: u64,
}

#[derive(Clone, Default)]
struct File {
    data: Vec<u8>,
    synced_len: usize,
    /// What the sectors written since the last sync held before.
    unsynced: BTreeMap<usize, Vec<u8>>,
}

impl SimDisk {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: seed,
            files: BTreeMap::new(),
            waiting: Vec::new(),
            bytes_limit: u64::MAX,
            stalled: false,
            failing: false,
            written_bytes: 0,
        }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound.max(1)
    }

    /// Takes an operation; it takes effect when it completes.
    pub fn submit(&mut self, op: Op) {
        self.waiting.push(op);
    }

    /// Operations not answered yet.
    #[must_use]
    pub fn waiting(&self) -> &[Op] {
        &self.waiting
    }

    /// Carries out one of the waiting operations, any that is first in its queue, and answers
    /// it. Nothing while the disk is stalled or nothing waits.
    pub fn complete_one(&mut self) -> Option<Completion> {
        if self.stalled || self.waiting.is_empty() {
            return None;
        }
        let queues = [Queue::Log, Queue::Bulk, Queue::Read];
        let heads: Vec<usize> = queues
            .iter()
            .filter_map(|queue| self.waiting.iter().position(|op| op.queue() == *queue))
            .collect();
        let at = heads[self.below(heads.len() as u64) as usize];
        let op = self.waiting.remove(at);
        let token = op.token();
        let result = self.run(op);
        Some(Completion { token, result })
    }

    fn run(&mut self, op: Op) -> Result<Data, DiskError> {
        if self.failing {
            return Err(DiskError::Io("input/output error".to_owned()));
        }
        match op {
            Op::Create { file, zeroed, .. } => {
                self.room(zeroed)?;
                let data = vec![0; zeroed as usize];
                self.files.insert(file, File::synced(data));
            }
            Op::Write {
                file,
                offset,
                buffers,
                sync,
                ..
            } => self.write(file, offset, &buffers, sync)?,
            Op::Read {
                file, offset, len, ..
            } => return self.read(file, offset, len as usize).map(Data::Bytes),
            Op::Rename { from, to, .. } => {
                let moved = self.files.remove(&from).ok_or_else(|| missing(from))?;
                self.files.insert(to, moved);
            }
            Op::Remove { file, .. } => {
                self.files.remove(&file);
            }
        }
        Ok(Data::Done)
    }

    fn room(&self, bytes: u64) -> Result<(), DiskError> {
        if self.used_bytes() + bytes > self.bytes_limit {
            return Err(DiskError::Full);
        }
        Ok(())
    }

    fn write(
        &mut self,
        name: FileName,
        offset: u64,
        buffers: &[Bytes],
        sync: bool,
    ) -> Result<(), DiskError> {
        let len: usize = buffers.iter().map(Bytes::len).sum();
        let end = offset as usize + len;
        let grows = self
            .len(name)
            .map_or(0, |have| end.saturating_sub(have as usize));
        self.room(grows as u64)?;
        self.written_bytes += len as u64;
        let file = self.files.get_mut(&name).ok_or_else(|| missing(name))?;
        let mut at = offset as usize;
        for buffer in buffers {
            file.put(at, buffer);
            at += buffer.len();
        }
        if sync {
            file.sync();
        }
        Ok(())
    }

    /// The power goes. What waits is lost or was carried out without an answer; of what was not
    /// synced all, nothing, or any subset of sectors survives.
    pub fn crash(&mut self) {
        self.failing = false;
        self.stalled = false;
        for op in std::mem::take(&mut self.waiting) {
            let reached_the_disk = self.below(2) == 0;
            if reached_the_disk {
                let _ = self.run(unsynced(op));
            }
        }
        let names: Vec<FileName> = self.files.keys().copied().collect();
        for name in names {
            if matches!(name, FileName::CheckpointPart { .. }) && self.below(2) == 0 {
                self.files.remove(&name);
            }
            self.tear(name);
        }
    }

    /// The process dies, the machine goes on: of what waits, the first ones of each queue were
    /// carried out; what was written stays, and is no more synced than before.
    pub fn kill(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for queue in [Queue::Log, Queue::Bulk] {
            let mut left = self.below(waiting.len() as u64 + 1);
            for op in waiting.iter().filter(|op| op.queue() == queue) {
                if left == 0 {
                    break;
                }
                left -= 1;
                let _ = self.run(unsynced(op.clone()));
            }
        }
    }

    fn tear(&mut self, name: FileName) {
        let mode = self.below(3);
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        let unsynced = std::mem::take(&mut file.unsynced);
        let keeps_length = mode != 0;
        let lost: Vec<(usize, Vec<u8>)> = unsynced
            .into_iter()
            .filter(|_| match mode {
                0 => true,
                1 => false,
                _ => self.below(2) == 0,
            })
            .collect();
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        for (sector, before) in lost {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(file.data.len());
            if start < end {
                file.data[start..end].fill(0);
                let kept = before.len().min(end - start);
                file.data[start..start + kept].copy_from_slice(&before[..kept]);
            }
        }
        if !keeps_length {
            file.data.truncate(file.synced_len);
        }
        file.sync();
    }

    /// Nothing is answered until it is set back.
    pub fn set_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Every operation fails until it is set back.
    pub fn set_failing(&mut self, failing: bool) {
        self.failing = failing;
    }

    /// The disk is full beyond so many bytes.
    pub fn set_bytes_limit(&mut self, bytes_limit: u64) {
        self.bytes_limit = bytes_limit;
    }

    /// Turns one bit of what is on the disk; false when the file has no such byte.
    pub fn rot(&mut self, file: FileName, offset: u64, bit: u8) -> bool {
        let file = self.files.get_mut(&file);
        let Some(byte) = file.and_then(|file| file.data.get_mut(offset as usize)) else {
            return false;
        };
        *byte ^= 1 << (bit % 8);
        true
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.data.len() as u64).sum()
    }

    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.bytes_limit.saturating_sub(self.used_bytes())
    }

    /// Bytes that writes have brought since the start.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<FileName> {
        self.files.keys().copied().collect()
    }

    /// Bytes of a file, if it is there.
    #[must_use]
    pub fn len(&self, file: FileName) -> Option<u64> {
        self.files.get(&file).map(|file| file.data.len() as u64)
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Puts a file there, synced; for fixtures.
    pub fn put(&mut self, file: FileName, data: Vec<u8>) {
        self.files.insert(file, File::synced(data));
    }
}

impl File {
    fn synced(data: Vec<u8>) -> Self {
        Self {
            synced_len: data.len(),
            data,
            unsynced: BTreeMap::new(),
        }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if bytes.is_empty() {
            return;
        }
        for sector in offset / SECTOR..=(end - 1) / SECTOR {
            let start = (sector * SECTOR).min(self.data.len());
            let stop = (start + SECTOR).min(self.data.len());
            let before = &self.data[start..stop];
            self.unsynced
                .entry(sector)
                .or_insert_with(|| before.to_vec());
        }
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.synced_len = self.data.len();
    }
}

/// A write that was not answered was not synced.
fn unsynced(op: Op) -> Op {
    match op {
        Op::Write {
            file,
            offset,
            buffers,
            token,
            ..
        } => Op::Write {
            file,
            offset,
            buffers,
            sync: false,
            token,
        },
        other => other,
    }
}

fn missing(file: FileName) -> DiskError {
    DiskError::Io(format!("{file} does not exist"))
}

impl RecoveryDisk for SimDisk {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let sized = |(name, file): (&FileName, &File)| (*name, file.data.len() as u64);
        Ok(self.files.iter().map(sized).collect())
    }

    fn read(&mut self, file: FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let data = &self.files.get(&file).ok_or_else(|| missing(file))?.data;
        let start = (offset as usize).min(data.len());
        let end = start.saturating_add(len).min(data.len());
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    fn truncate(&mut self, file: FileName, len: u64) -> Result<(), DiskError> {
        let file = self.files.get_mut(&file).ok_or_else(|| missing(file))?;
        file.data.truncate(len as usize);
        file.sync();
        Ok(())
    }

    fn remove(&mut self, file: FileName) -> Result<(), DiskError> {
        self.files.remove(&file);
        Ok(())
    }
}
