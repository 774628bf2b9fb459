//! The real disk: carries out a lane's operations on its folder, each queue in a thread.
//!
//! Writes of the log have a thread of their own, so that nothing slow stands in front of their
//! sync. A failure is reported as it is and never tried again: after a failed sync the page
//! cache no longer tells what is on disk.
//!
//! The only file beside `local.rs` that touches files. `unsafe` is used for two calls (`pwritev`,
//! `sync_file_range`).

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use warren_cluster_core::log::disk::{
    Completion, Data, DiskError, FileName, Op, Queue, RecoveryDisk,
};

use crate::clock::Clock;

/// Files kept open: a read of a backlog goes through its segments one by one.
const OPEN_FILES_MAX: usize = 64;
/// Buffers in one `pwritev` (the kernel's limit is 1024).
const BUFFERS_MAX: usize = 1024;
/// Zeros written at once into a new file, and how long the disk is left to others after them, at
/// most.
const ZEROS_BYTES: usize = 512 << 10;
const ZEROS_PAUSE_MAX: Duration = Duration::from_micros(500);

/// Called by a disk thread with what came of an operation.
pub(crate) type Complete = Arc<dyn Fn(Completion) + Send + Sync>;

/// A lane's folder and the files in it that are open.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    /// The directory itself, to sync it.
    directory: File,
    /// Oldest first. Shared by all threads, so that a removed file is closed everywhere.
    open: Mutex<VecDeque<(FileName, Arc<File>)>>,
}

/// Has the disk take these bytes of a new file, and leaves it to others for about as long: a whole
/// segment at once would keep the log's syncs waiting, and who waits for a confirm with them.
fn breathe(file: &File, offset: u64, len: usize) -> io::Result<()> {
    let began = std::time::Instant::now();
    let (offset, len) = (offset.cast_signed(), len as libc::off64_t);
    let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: a descriptor that is open, and numbers. Nothing is promised by it: whoever makes the
    // file syncs it in the end.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    std::thread::sleep(began.elapsed().min(ZEROS_PAUSE_MAX));
    Ok(())
}

/// What metrics say about the disk.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) syncs: AtomicU64,
    /// When the sync in flight began, in microseconds of the node's clock; 0 when there is none.
    pub(crate) sync_since: AtomicU64,
}

/// The threads of a disk. They end when it is dropped, after what they have begun.
pub(crate) struct Disk {
    queues: Option<[Sender<Op>; 3]>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) gauges: Arc<Gauges>,
}

impl Files {
    /// Opens a lane's folder, which is made when missing.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let directory = File::open(folder)?;
        if let Some(parent) = folder.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            directory,
            open: Mutex::new(VecDeque::new()),
        })
    }

    fn path(&self, file: FileName) -> PathBuf {
        self.folder.join(file.to_string())
    }

    /// What the file system has left for this process, in bytes.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.directory)
    }

    fn file(&self, name: FileName) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(open, _)| *open == name) {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        let made = matches!(name, FileName::CheckpointPart { .. });
        options.read(true).write(true).create(made).truncate(false);
        let file = Arc::new(options.open(self.path(name))?);
        if open.len() >= OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((name, Arc::clone(&file)));
        Ok(file)
    }

    fn close(&self, name: FileName) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(open, _)| *open != name);
    }

    /// Nothing is left of one that fails: on a full disk it would keep what was left.
    fn create(&self, name: FileName, zeroed: u64) -> io::Result<()> {
        self.close(name);
        let created = self.create_filled(name, zeroed);
        if created.is_err() {
            // The failure itself is what counts.
            let _ = fs::remove_file(self.path(name));
        }
        created
    }

    fn create_filled(&self, name: FileName, zeroed: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = options.open(self.path(name))?;
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(zeroed).unwrap_or(ZEROS_BYTES))];
        let mut offset = 0;
        while offset < zeroed {
            let left = usize::try_from(zeroed - offset).unwrap_or(usize::MAX);
            let piece = &zeros[..zeros.len().min(left)];
            file.write_all_at(piece, offset)?;
            breathe(&file, offset, piece.len())?;
            offset += piece.len() as u64;
        }
        if matches!(name, FileName::CheckpointPart { .. }) {
            // Of no worth before it is whole, synced and renamed.
            return Ok(());
        }
        file.sync_all()?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn read_up_to(&self, name: FileName, offset: u64, len: usize) -> io::Result<Bytes> {
        let file = self.file(name)?;
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.close(from);
        self.close(to);
        fs::rename(self.path(from), self.path(to))?;
        self.sync_directory()
    }

    fn remove_file(&self, name: FileName) -> io::Result<()> {
        self.close(name);
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        self.sync_directory()
    }

    fn perform(&self, op: Op, clock: &Clock, gauges: &Gauges) -> Completion {
        let token = op.token();
        let result = match op {
            Op::Create { file, zeroed, .. } => self.create(file, zeroed).map(|()| Data::Done),
            Op::Write {
                file,
                offset,
                buffers,
                sync,
                ..
            } => self
                .write(file, offset, &buffers, sync, clock, gauges)
                .map(|()| Data::Done),
            Op::Read {
                file, offset, len, ..
            } => self.read_up_to(file, offset, len as usize).map(Data::Bytes),
            Op::Rename { from, to, .. } => self.rename(from, to).map(|()| Data::Done),
            Op::Remove { file, .. } => self.remove_file(file).map(|()| Data::Done),
        };
        Completion {
            token,
            result: result.map_err(|error| disk_error(&error)),
        }
    }

    fn write(
        &self,
        name: FileName,
        offset: u64,
        buffers: &[Bytes],
        sync: bool,
        clock: &Clock,
        gauges: &Gauges,
    ) -> io::Result<()> {
        let file = self.file(name)?;
        gauges
            .sync_since
            .store(clock.mono().0.max(1), Ordering::Relaxed);
        let mut written = write_all_at(&file, buffers, offset);
        if written.is_ok() && sync {
            written = file.sync_data();
            gauges.syncs.fetch_add(1, Ordering::Relaxed);
        }
        gauges.sync_since.store(0, Ordering::Relaxed);
        written
    }
}

impl Disk {
    /// Starts the threads; each tells `complete` what came of its operations.
    pub(crate) fn start(files: &Arc<Files>, clock: Clock, complete: &Complete) -> io::Result<Self> {
        let gauges = Arc::new(Gauges::default());
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for name in ["warren-log", "warren-bulk", "warren-read"] {
            let (sender, receiver) = unbounded();
            let files = Arc::clone(files);
            let gauges = Arc::clone(&gauges);
            let complete = Arc::clone(complete);
            let serve = move || serve(&receiver, &files, &clock, &gauges, &complete);
            let builder = std::thread::Builder::new().name(name.to_owned());
            threads.push(builder.spawn(serve)?);
            queues.push(sender);
        }
        Ok(Self {
            queues: queues.try_into().ok(),
            threads,
            gauges,
        })
    }

    /// Hands operations over; what they come to is told to `complete`. The log keeps few of
    /// them going at once, which bounds the queues.
    pub(crate) fn submit(&self, ops: &mut Vec<Op>) {
        let Some(queues) = &self.queues else {
            ops.clear();
            return;
        };
        let mut given = [false; 3];
        for op in ops.drain(..) {
            let queue = match op.queue() {
                Queue::Log => 0,
                Queue::Bulk => 1,
                Queue::Read => 2,
            };
            // A thread that is gone has panicked, and its panic was reported.
            let _ = queues[queue].send(op);
            given[queue] = true;
        }
        for (thread, given) in self.threads.iter().zip(given) {
            if given {
                thread.thread().unpark();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.queues = None;
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

/// Sleeps at once when there is nothing to do. The channel's own `recv` yields a few times first,
/// and on a busy machine each of these forfeits the thread's turn at its next operation.
fn serve(ops: &Receiver<Op>, files: &Files, clock: &Clock, gauges: &Gauges, complete: &Complete) {
    loop {
        match ops.try_recv() {
            Ok(op) => complete(files.perform(op, clock, gauges)),
            Err(TryRecvError::Empty) => std::thread::park(),
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

impl RecoveryDisk for &Files {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| disk_error(&error))? {
            let entry = entry.map_err(|error| disk_error(&error))?;
            let name = entry.file_name();
            let Some(file) = name.to_str().and_then(FileName::parse) else {
                continue;
            };
            let metadata = entry.metadata().map_err(|error| disk_error(&error))?;
            files.push((file, metadata.len()));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn read(&mut self, file: FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let read = self.read_up_to(file, offset, len);
        read.map_err(|error| disk_error(&error))
    }

    fn truncate(&mut self, file: FileName, len: u64) -> Result<(), DiskError> {
        let cut = self.file(file).and_then(|file| {
            if file.metadata()?.len() > len {
                file.set_len(len)?;
            }
            file.sync_all()
        });
        cut.map_err(|error| disk_error(&error))
    }

    fn remove(&mut self, file: FileName) -> Result<(), DiskError> {
        self.remove_file(file).map_err(|error| disk_error(&error))
    }
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full,
        _ => DiskError::Io(error.to_string()),
    }
}

/// Writes all buffers, one behind the other.
fn write_all_at(file: &File, buffers: &[Bytes], offset: u64) -> io::Result<()> {
    let mut offset = offset;
    let mut rest = buffers;
    // Bytes of the first buffer that are written already.
    let mut skip = 0;
    loop {
        while rest.first().is_some_and(|first| first.len() == skip) {
            rest = &rest[1..];
            skip = 0;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let written = match pwritev(file, rest, skip, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset += written as u64;
        let mut left = written + skip;
        while rest.first().is_some_and(|first| first.len() <= left) {
            left -= rest[0].len();
            rest = &rest[1..];
        }
        skip = left;
    }
}

/// One system call: writes some of the buffers, the first one from `skip` on.
fn pwritev(file: &File, buffers: &[Bytes], skip: usize, offset: u64) -> io::Result<usize> {
    let mut vectors: Vec<libc::iovec> = Vec::with_capacity(buffers.len().min(BUFFERS_MAX));
    for (at, buffer) in buffers.iter().take(BUFFERS_MAX).enumerate() {
        let bytes = if at == 0 {
            &buffer[skip..]
        } else {
            &buffer[..]
        };
        vectors.push(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }
    let count = i32::try_from(vectors.len()).expect("at most BUFFERS_MAX");
    let offset = i64::try_from(offset).map_err(|_| ErrorKind::FileTooLarge)?;
    // SAFETY: each vector points at the bytes of a buffer that lives in `buffers` for the whole
    // call, with its length; `pwritev` only reads through them.
    let written = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

fn free_bytes(directory: &File) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is open and `stat` has room for the answer.
    let answer = unsafe { libc::fstatvfs(directory.as_raw_fd(), stat.as_mut_ptr()) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and filled it.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use warren_cluster_core::ids::{SegmentId, ShardId};
    use warren_cluster_core::log::disk::Token;

    const SEGMENT: FileName = FileName::Segment(SegmentId(7));

    struct Bench {
        _folder: Folder,
        files: Arc<Files>,
        disk: Disk,
        done: Receiver<Completion>,
    }

    fn bench(name: &str) -> Bench {
        let folder = Folder::new(name);
        let files = Arc::new(Files::open(&folder.path().join("lane")).expect("opens"));
        let (sender, done) = unbounded();
        let complete: Complete = Arc::new(move |completion| {
            let _ = sender.send(completion);
        });
        let disk = Disk::start(&files, Clock::start(), &complete).expect("threads");
        Bench {
            _folder: folder,
            files,
            disk,
            done,
        }
    }

    impl Bench {
        fn run(&self, op: Op) -> Result<Data, DiskError> {
            let token = op.token();
            self.disk.submit(&mut vec![op]);
            let completion = self.done.recv().expect("answered");
            assert_eq!(completion.token, token);
            completion.result
        }
    }

    #[test]
    fn what_is_written_in_pieces_reads_back() {
        let bench = bench("disk");
        let create = Op::Create {
            file: SEGMENT,
            zeroed: (2 << 20) + 5,
            token: Token(1),
        };
        assert!(matches!(bench.run(create), Ok(Data::Done)));
        let mut buffers: Vec<_> = (0..3000_u32)
            .map(|number| Bytes::copy_from_slice(&number.to_le_bytes()))
            .collect();
        buffers.insert(5, Bytes::new());
        let expected: Vec<u8> = buffers.concat();
        let write = Op::Write {
            file: SEGMENT,
            offset: 4096,
            buffers,
            sync: true,
            token: Token(2),
        };
        assert!(matches!(bench.run(write), Ok(Data::Done)));
        assert_eq!(bench.disk.gauges.syncs.load(Ordering::Relaxed), 1);
        let read = Op::Read {
            file: SEGMENT,
            offset: 4096,
            len: 12_000,
            token: Token(3),
        };
        let Ok(Data::Bytes(bytes)) = bench.run(read) else {
            panic!("reads");
        };
        assert_eq!(bytes, expected);
        let list = (&*bench.files).list().expect("lists");
        assert_eq!(list, [(SEGMENT, (2 << 20) + 5)]);
        let tail = (&*bench.files).read(SEGMENT, (2 << 20) + 1, 100);
        assert_eq!(tail.expect("reads").len(), 4);
    }

    #[test]
    fn a_file_that_finds_no_room_leaves_nothing() {
        let bench = bench("full");
        let path = bench.files.path(SEGMENT);
        std::os::unix::fs::symlink("/dev/full", &path).expect("links");
        let create = Op::Create {
            file: SEGMENT,
            zeroed: 100,
            token: Token(1),
        };
        assert!(matches!(bench.run(create), Err(DiskError::Full)));
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn a_checkpoint_is_renamed_and_a_file_removed_twice() {
        let bench = bench("rename");
        let (shard, number) = (ShardId(3), 9);
        let part = FileName::CheckpointPart { shard, number };
        let whole = FileName::Checkpoint { shard, number };
        let write = Op::Write {
            file: part,
            offset: 0,
            buffers: vec![Bytes::from_static(b"chunk")],
            sync: true,
            token: Token(1),
        };
        assert!(bench.run(write).is_ok());
        let rename = Op::Rename {
            from: part,
            to: whole,
            token: Token(2),
        };
        assert!(bench.run(rename).is_ok());
        assert_eq!((&*bench.files).list().expect("lists"), [(whole, 5)]);
        for token in [3, 4] {
            let remove = Op::Remove {
                file: whole,
                token: Token(token),
            };
            assert!(bench.run(remove).is_ok());
        }
        let read = Op::Read {
            file: whole,
            offset: 0,
            len: 1,
            token: Token(5),
        };
        assert!(matches!(bench.run(read), Err(DiskError::Io(_))));
    }

    #[test]
    fn a_file_is_cut_and_never_grown() {
        let bench = bench("truncate");
        let create = Op::Create {
            file: SEGMENT,
            zeroed: 100,
            token: Token(1),
        };
        assert!(bench.run(create).is_ok());
        (&*bench.files).truncate(SEGMENT, 40).expect("cuts");
        (&*bench.files).truncate(SEGMENT, 70).expect("leaves it");
        assert_eq!((&*bench.files).list().expect("lists"), [(SEGMENT, 40)]);
        assert!(bench.files.free_bytes().expect("asks") > 0);
    }
}
