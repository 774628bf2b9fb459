//! Memory and disk alarms: above the memory watermark or below the disk limit publishers wait,
//! consumers never do.
//!
//! Measured every 250 ms (every second while there is plenty), and whenever clients have sent a
//! quarter of what memory was left: resident memory (what the kernel would kill us for), not what
//! the allocator thinks. A raised memory alarm is cleared a little below its mark, so that it does
//! not flap.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::MemoryLimit;

/// What is wrong, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Alarms {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

impl Alarms {
    /// RabbitMQ's words for `connection.blocked`; `None` when publishers may go on.
    pub(crate) fn reason(self) -> Option<Arc<str>> {
        match (self.memory, self.disk) {
            (false, false) => None,
            (true, false) => Some("low on memory".into()),
            (false, true) => Some("low on disk".into()),
            (true, true) => Some("low on memory & low on disk".into()),
        }
    }
}

/// What the node measured of its machine. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Readings {
    pub(crate) resident: u64,
    pub(crate) disk_free: u64,
}

/// More than anybody fills within a second, of memory and of half of the disk.
const PLENTY_BYTES: u64 = 4 << 30;

/// Memory is not looked at for fewer bytes of clients.
const INTAKE_BYTES_MIN: u64 = 4 << 20;

/// The limits, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) memory: u64,
    pub(crate) disk_free: u64,
}

impl Limits {
    pub(crate) fn new(memory: MemoryLimit, disk_free: u64) -> Self {
        let memory = match memory {
            MemoryLimit::Absolute(bytes) => bytes,
            MemoryLimit::Relative(share) => (available_memory() as f64 * share) as u64,
        };
        Self { memory, disk_free }
    }

    /// Whether neither alarm can be near for a second.
    pub(crate) fn has_plenty(self, readings: Readings) -> bool {
        self.memory.saturating_sub(readings.resident) > PLENTY_BYTES
            && readings.disk_free / 2 > self.disk_free + PLENTY_BYTES
    }

    /// After so many bytes of clients memory is worth a look.
    fn worth_a_look(self, readings: Readings) -> u64 {
        (self.memory.saturating_sub(readings.resident) / 4).max(INTAKE_BYTES_MIN)
    }

    /// The alarms that follow from `readings`, given those that were raised before.
    pub(crate) fn judge(self, readings: Readings, before: Alarms) -> Alarms {
        let clear_below = self.memory - self.memory / 32;
        let mark = if before.memory {
            clear_below
        } else {
            self.memory
        };
        Alarms {
            memory: readings.resident > mark,
            disk: readings.disk_free < self.disk_free,
        }
    }
}

/// What clients have sent since memory was looked at.
#[derive(Debug)]
pub(crate) struct Intake {
    unseen: AtomicU64,
    limit: AtomicU64,
}

impl Intake {
    pub(crate) fn new() -> Self {
        Self {
            unseen: AtomicU64::new(0),
            limit: AtomicU64::new(INTAKE_BYTES_MIN),
        }
    }

    /// So many bytes came; true, for one of those who brought them, when memory is to be looked at.
    pub(crate) fn came(&self, bytes: usize) -> bool {
        let unseen = self.unseen.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let limit = self.limit.load(Ordering::Relaxed);
        unseen >= limit && self.unseen.swap(0, Ordering::Relaxed) >= limit
    }

    /// Memory was looked at.
    pub(crate) fn looked(&self, limits: Limits, readings: Readings) {
        let limit = limits.worth_a_look(readings);
        self.limit.store(limit, Ordering::Relaxed);
        self.unseen.store(0, Ordering::Relaxed);
    }
}

/// Reads resident memory and the free bytes of the disk that holds `data_dir`. What cannot be
/// read counts as nothing used (memory) or all free (disk), with a log line from the caller.
pub(crate) fn measure(data_dir: &Path) -> std::io::Result<Readings> {
    Ok(Readings {
        resident: resident_memory()?,
        disk_free: disk_free(data_dir)?,
    })
}

/// Bytes that the allocator holds and nobody uses, worth giving back from here on.
const WASTE_BYTES: usize = 32 * 1024 * 1024;

/// Whether the allocator keeps much memory that is free: more than [`WASTE_BYTES`] and than an
/// eighth of what is resident.
pub(crate) fn is_wasteful(resident: u64) -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallinfo2 reads the allocator's counters under its own locks.
        let free = unsafe { libc::mallinfo2() }.fordblks;
        free > WASTE_BYTES && free as u64 > resident / 8
    }
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = resident;
        false
    }
}

/// Gives free memory back to the system. Takes milliseconds a gigabyte: not for a runtime's thread.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks; it moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn resident_memory() -> std::io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| std::io::Error::other("/proc/self/statm has no resident field"))?;
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page).unwrap_or(4096))
}

fn disk_free(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain old data, for which zeroes are a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and `stat` is ours.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(stat.f_bavail as u64 * stat.f_frsize as u64)
}

/// The smaller of the machine's memory and the control group's limit, in bytes.
fn available_memory() -> u64 {
    // SAFETY: sysconf reads constants of the system.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    let machine = u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0);
    let group = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
    .min()
    .unwrap_or(u64::MAX);
    machine.min(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_rise_at_the_limit_and_clear_below_it() {
        let limits = Limits {
            memory: 3200,
            disk_free: 50,
        };
        let calm = Alarms::default();
        let at = |resident, disk_free| Readings {
            resident,
            disk_free,
        };
        assert_eq!(limits.judge(at(3200, 50), calm), calm);
        let raised = limits.judge(at(3201, 50), calm);
        assert!(raised.memory);
        assert!(limits.judge(at(3150, 50), raised).memory, "does not flap");
        assert!(!limits.judge(at(3099, 50), raised).memory);
        assert!(limits.judge(at(0, 49), calm).disk);
    }

    #[test]
    fn plenty_is_far_from_both_limits() {
        let limits = Limits {
            memory: 6 << 30,
            disk_free: 1 << 30,
        };
        let plenty = |resident, disk_free| {
            limits.has_plenty(Readings {
                resident,
                disk_free,
            })
        };
        assert!(plenty(1 << 30, 11 << 30));
        assert!(
            !plenty(2 << 30, 11 << 30),
            "memory that a publisher fills soon"
        );
        assert!(!plenty(1 << 30, 10 << 30), "a disk that could be full soon");
        assert!(!plenty(7 << 30, 11 << 30) && !plenty(1 << 30, 0));
    }

    #[test]
    fn memory_is_looked_at_before_clients_can_fill_it() {
        let limits = Limits {
            memory: 160 << 20,
            disk_free: 0,
        };
        let intake = Intake::new();
        let resident = |mib: u64| Readings {
            resident: mib << 20,
            disk_free: 0,
        };
        intake.looked(limits, resident(40));
        assert!(!intake.came(20 << 20));
        assert!(intake.came(10 << 20), "a quarter of what was left");
        assert!(!intake.came(1), "told once");
        for mib in [150, 170] {
            intake.looked(limits, resident(mib));
            assert!(!intake.came(3 << 20));
            assert!(intake.came(1 << 20), "often near the limit");
        }
    }

    #[test]
    fn reasons_are_rabbitmqs() {
        let reason = |memory, disk| Alarms { memory, disk }.reason();
        assert_eq!(reason(false, false), None);
        assert_eq!(
            reason(true, true).as_deref(),
            Some("low on memory & low on disk")
        );
    }

    #[test]
    fn this_process_can_be_measured() {
        let readings = measure(Path::new("/")).expect("linux");
        assert!(readings.resident > 1 << 20);
        assert!(available_memory() > readings.resident);
    }
}
