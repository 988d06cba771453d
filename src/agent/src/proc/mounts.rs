//! Which filesystems are real, local and each to be counted once; how full they are.
//!
//! Network and fuse filesystems are never chosen: asking a dead one for its size blocks for ever.

use std::collections::{HashMap, HashSet};

use crate::limits;
use crate::snapshot::Filesystem;
use crate::text::{clean, lines};

/// Types that live on a local block device (or pool) and can fill up.
const LOCAL_TYPES: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jffs2", "jfs", "nilfs2",
    "ntfs", "ntfs3", "reiserfs", "ubifs", "vfat", "xfs", "zfs",
];

/// Types whose server may be gone: whoever looks up a path below such a mount waits with it, even for a local disk that is
/// mounted there. `fuse` stands for `fuse.sshfs` and all others of its kind too.
const REMOTE_TYPES: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// Files that container engines bind over; they show the host's disk under a name nobody looks for.
const CONTAINER_FILES: &[&str] = &["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/termination-log"];

/// One line of `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// `major:minor` of the filesystem; the same for all of its mounts.
    pub device_number: String,
    /// What of the filesystem is mounted: `/` but for bind mounts and subvolumes.
    pub root: String,
    /// As it is on the machine, unescaped; what `statfs` is asked for.
    pub path: String,
    pub fs_type: String,
    pub source: String,
    pub super_options: String,
}

/// Parses `/proc/self/mountinfo`. A line that is not one, or is not UTF-8, is left out.
#[must_use]
pub fn mountinfo(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|&byte| byte == b'\n').filter_map(|line| mount(std::str::from_utf8(line).ok()?)).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let mut right = right.split(' ');
    Some(Mount {
        device_number: left.next()?.to_owned(),
        root: unescape(left.next()?)?,
        path: unescape(left.next()?)?,
        fs_type: right.next()?.to_owned(),
        source: unescape(right.next()?)?,
        super_options: right.next().unwrap_or("").to_owned(),
    })
}

/// Undoes the octal escapes of the kernel: `\040` is a space. `None`: the result is not UTF-8.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = octal {
            out.push(value);
            rest = after.get(3..).unwrap_or(&[]);
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8(out).ok()
}

/// The mounts worth asking: real and local, one for each filesystem, the one nearest to `/`.
///
/// What is mounted below a network or fuse filesystem is left out. overlay counts at `/` only (a container's own root). Mounts whose path has a line break are left out:
/// a request to the shell probe is a line.
#[must_use]
pub fn choose(mounts: &[Mount]) -> Vec<Mount> {
    // A later mount on the same path hides the earlier one.
    let visible: HashMap<&str, &Mount> = mounts.iter().map(|mount| (mount.path.as_str(), mount)).collect();
    let remote: HashSet<&str> =
        visible.values().filter(|mount| is_remote(mount)).map(|mount| mount.path.as_str()).collect();
    let mut nearest: HashMap<&str, &Mount> = HashMap::new();
    let asked = |mount: &&Mount| is_real(mount) && !is_below(&mount.path, &remote);
    for mount in visible.into_values().filter(asked) {
        let kept = nearest.entry(&mount.device_number).or_insert(mount);
        if nearness(mount) < nearness(kept) {
            *kept = mount;
        }
    }
    let mut chosen: Vec<Mount> = nearest.into_values().cloned().collect();
    chosen.sort_by(|a, b| a.path.cmp(&b.path));
    chosen.truncate(limits::FILESYSTEMS);
    chosen
}

/// A machine whose root is remote has all of its paths there; one more makes no difference.
fn is_remote(mount: &Mount) -> bool {
    let kind = mount.fs_type.split('.').next().unwrap_or_default();
    mount.path != "/" && REMOTE_TYPES.contains(&kind)
}

/// Whether the way to a path leads over one of these.
fn is_below(path: &str, mounts: &HashSet<&str>) -> bool {
    !mounts.is_empty()
        && path.match_indices('/').any(|(end, _)| path.get(..end).is_some_and(|above| mounts.contains(above)))
}

fn is_real(mount: &Mount) -> bool {
    let local = LOCAL_TYPES.contains(&mount.fs_type.as_str())
        || (mount.path == "/" && matches!(mount.fs_type.as_str(), "overlay" | "aufs"));
    local
        && mount.path.starts_with('/')
        && mount.path.len() <= limits::PATH_BYTES
        && !mount.path.contains(|c: char| c.is_control())
        && !mount.source.starts_with("/dev/loop")
        && !CONTAINER_FILES.contains(&mount.path.as_str())
}

/// A whole filesystem comes before a part of it, a short path before a long one.
fn nearness(mount: &Mount) -> (bool, usize, &str) {
    (mount.root != "/", mount.path.len(), &mount.path)
}

/// Format for `stat -f -c`: what [`statfs`] reads.
pub const STATFS_FORMAT: &str = "%S %b %f %a %c %d %n";

/// Pairs the lines of `stat -f -c STATFS_FORMAT` with the chosen mounts. A mount that said nothing
/// (gone since) is left out, as is one without blocks (nothing is stored on it).
#[must_use]
pub fn statfs(bytes: &[u8], mounts: &[Mount]) -> Vec<Filesystem> {
    lines(bytes)
        .filter_map(|line| {
            let mut fields = line.splitn(7, ' ');
            let mut number = || fields.next()?.parse::<u64>().ok();
            let (block, blocks, free, available) = (number()?, number()?, number()?, number()?);
            let (inodes, inodes_free) = (number(), number());
            let path = fields.next()?;
            let mount = mounts.iter().find(|mount| mount.path == path)?;
            let inodes = inodes.filter(|&total| total > 0);
            let size = blocks.checked_mul(block).filter(|&size| size > 0)?;
            let free = free.checked_mul(block)?.min(size);
            Some(Filesystem {
                size_bytes: size,
                used_bytes: size - free,
                // A negative "available" (root's reserve is being eaten) comes as a huge number.
                available_bytes: available.checked_mul(block).filter(|&left| left <= free).unwrap_or(0),
                inodes_total: inodes,
                inodes_used: inodes.zip(inodes_free).map(|(all, free)| all.saturating_sub(free)),
                ..described(mount)
            })
        })
        .take(limits::FILESYSTEMS)
        .collect()
}

/// Pairs the lines of `df -P -k` with the chosen mounts, where `stat -f` is missing. It knows no inodes.
/// Source: df(1p).
#[must_use]
pub fn df(bytes: &[u8], mounts: &[Mount]) -> Vec<Filesystem> {
    lines(bytes)
        .filter_map(|line| {
            // The mount point may hold spaces, so it is looked for at the end of the line.
            let mount = mounts
                .iter()
                .filter(|mount| line.strip_suffix(&mount.path).is_some_and(|rest| rest.ends_with("% ")))
                .max_by_key(|mount| mount.path.len())?;
            let before = line.strip_suffix(&mount.path)?;
            let mut words = before.split_ascii_whitespace().rev().skip(1);
            let mut kibibytes = || words.next()?.parse::<u64>().ok()?.checked_mul(1024);
            let (available_bytes, used_bytes) = (kibibytes()?, kibibytes()?);
            let size_bytes = kibibytes().filter(|&size| size > 0)?;
            Some(Filesystem { size_bytes, used_bytes, available_bytes, ..described(mount) })
        })
        .take(limits::FILESYSTEMS)
        .collect()
}

fn described(mount: &Mount) -> Filesystem {
    Filesystem {
        mount: clean(mount.path.as_bytes(), limits::PATH_BYTES),
        device: clean(mount.source.as_bytes(), limits::TEXT_BYTES),
        fs_type: clean(mount.fs_type.as_bytes(), limits::TEXT_BYTES),
        ..Filesystem::default()
    }
}
