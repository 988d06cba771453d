//! The limits of a reading. Everything that a machine says is hostile input, so every list and every
//! string of a snapshot ends somewhere.

/// Bytes of a name, a description, a sentence. Longer than any that a person reads in a table.
pub const TEXT_BYTES: usize = 256;

/// Bytes of a command line: what tells two JVMs apart stands within the first kilobyte.
pub const COMMAND_LINE_BYTES: usize = 1024;

/// Bytes of a path; PATH_MAX is 4096, a mount point over this is not listed.
pub const PATH_BYTES: usize = 1024;

/// Cores of the largest machines that Linux is built for (NR_CPUS 8192 is not met outside labs).
pub const CORES: usize = 4096;

/// Processes read at all; a machine with more is reported with a gap.
pub const PROCESSES: usize = 100_000;

/// Services of one machine; the largest seen in the field have some hundreds.
pub const SERVICES: usize = 5_000;

/// Filesystems of one machine; ZFS machines have hundreds.
pub const FILESYSTEMS: usize = 512;

/// Disks: a storage server with several hundred paths still fits.
pub const DISKS: usize = 1_024;

/// Interfaces: a container host has one veth a container.
pub const INTERFACES: usize = 2_048;

/// Temperature sensors.
pub const SENSORS: usize = 256;

/// TCP sockets that are gone through to count them by state: the kernel writes 150 bytes for each, so this many are 3 MB
/// and some ten milliseconds, half a minute apart.
pub const SOCKETS: u64 = 20_000;

/// Sessions of logged-in users.
pub const USERS: usize = 1_000;

/// Lines of `/etc/passwd` that are looked at for names.
pub const ACCOUNTS: usize = 10_000;

/// Accounts with a login shell that are listed; a machine with more has them in a directory.
pub const LOGIN_ACCOUNTS: usize = 200;

/// Paths and lines of the scripts of OpenRC and SysV init; the largest systems have some hundred scripts.
pub const INIT_LINES: usize = 20_000;

/// Pid files that are looked at.
pub const PID_FILES: usize = 1_000;

/// Addresses of one machine.
pub const ADDRESSES: usize = 64;

/// Things that could not be read; one a section, so a dozen is usual.
pub const GAPS: usize = 64;

/// Containers of one machine; a packed one runs some hundreds.
pub const CONTAINERS: usize = 1_000;

/// Published ports of one container, and labels: what a page can show.
pub const CONTAINER_PORTS: usize = 64;
pub const CONTAINER_LABELS: usize = 64;

/// Bytes of one file that the local reader reads. `/proc/stat` of a machine with 4,096 cores and
/// its `intr` line stays under 2 MiB.
pub const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of output of one command (`systemctl show` of 5,000 units is about 2 MiB).
pub const COMMAND_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes of `/proc/self/auxv`; the kernel writes about 340.
pub const AUXV_BYTES: u64 = 4096;

/// Bytes of one request line of `stream`. The longest that means something has under 40.
pub const REQUEST_LINE_BYTES: usize = 256;
