//! Drives the cluster core: lane threads, disks, the local store.
