//! What of the operating system tokio does not offer: a timer finer than a millisecond, and more
//! descriptors.
//!
//! Unsafe: the system calls in this file. Each gets pointers to values that outlive the call, and
//! descriptors that it has just opened.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::FromRawFd as _;

use tokio::io::unix::AsyncFd;

/// A timer with the resolution of the kernel's clock (tokio's is a millisecond).
#[derive(Debug)]
pub(super) struct Timer {
    file: AsyncFd<File>,
}

impl Timer {
    /// # Errors
    /// When the process may open no more descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was opened above and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: the file is open, owns its descriptor and is not replaced while it is in there.
        let file = unsafe { AsyncFd::register(file) }.map_err(|error| error.into_parts().1)?;
        Ok(Self { file })
    }

    /// Waits for `nanoseconds`. May be dropped and called again.
    ///
    /// # Errors
    /// Not in practice: the descriptor is a timer's.
    pub(super) async fn wait(&mut self, nanoseconds: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let nanoseconds = nanoseconds.max(1); // 0 would disarm it
        let value = libc::timespec {
            tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
        };
        let timer = libc::itimerspec {
            it_interval: zero,
            it_value: value,
        };
        let fd = self.file.as_raw_fd();
        // SAFETY: `timer` lives across the call; the old value is not asked for.
        let failed =
            unsafe { libc::timerfd_settime(fd, 0, &raw const timer, std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut guard = self.file.readable_mut().await?;
            let mut expirations = [0; 8];
            match guard.try_io(|file| file.get_mut().read(&mut expirations)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// Allows this process as many descriptors as the system lets it have; gives how many.
pub(super) fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives across the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0;
    if failed { before } else { limit.rlim_cur }
}
