//! Files of the kernel that are read again and again, kept open: reading one again is then one system call instead of four.
//!
//! Only for files whose content is made when they are read (procfs, sysfs, cgroups) and whose access does not depend on when
//! they were opened. A file that cannot be read any more is opened again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Files that stay open: those of every reading and some sensors. Most systems allow a process 1,024.
const OPEN_FILES: usize = 256;

/// A file that is not there is looked for again after this: a module may be loaded, a sensor plugged in.
const MISSING_TIME_LIMIT: Duration = Duration::from_secs(20);

/// The kernel fills a page (4 KiB at least) with whole records, so what ends below this has ended: no record of the files
/// that are kept is nearly as long as the rest. Saves a read that says nothing. Source: seq_read_iter in fs/seq_file.c.
const SURELY_ENDED_BYTES: usize = 2048;

/// One read.
const CHUNK_BYTES: usize = 4096;

#[derive(Debug)]
enum Slot {
    Open(File),
    Missing(Instant),
}

/// The files that are open, by path.
#[derive(Debug, Default)]
pub struct Kept {
    slots: HashMap<String, Slot>,
}

impl Kept {
    /// Reads a file from its beginning into `content`, in place of what is there. False: it cannot be read. `root` is `/`
    /// but in tests.
    pub fn read(&mut self, root: &Path, path: &str, limit_bytes: usize, content: &mut Vec<u8>) -> bool {
        match self.slots.get(path) {
            Some(Slot::Missing(since)) if since.elapsed() < MISSING_TIME_LIMIT => return false,
            Some(Slot::Open(file)) if read_whole(file, limit_bytes, content).is_ok() => return true,
            _ => {}
        }
        let opened = File::open(root.join(path.trim_start_matches('/')))
            .and_then(|file| read_whole(&file, limit_bytes, content).map(|()| file));
        let read = opened.is_ok();
        match opened {
            Ok(file) if self.slots.contains_key(path) || self.slots.len() < OPEN_FILES => {
                self.slots.insert(path.to_owned(), Slot::Open(file));
            }
            Ok(_) => {}
            Err(_) if self.slots.contains_key(path) || self.slots.len() < OPEN_FILES => {
                self.slots.insert(path.to_owned(), Slot::Missing(Instant::now()));
            }
            Err(_) => {}
        }
        read
    }
}

fn read_whole(file: &File, limit_bytes: usize, content: &mut Vec<u8>) -> io::Result<()> {
    content.clear();
    let mut scratch = [0; CHUNK_BYTES];
    while content.len() < limit_bytes {
        let offset = u64::try_from(content.len()).map_err(io::Error::other)?;
        match file.read_at(&mut scratch, offset) {
            Ok(0) => break,
            Ok(count) => {
                content.extend_from_slice(scratch.get(..count).unwrap_or_default());
                if count < SURELY_ENDED_BYTES {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(limit_bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_is_read_anew_each_time_and_opened_again_when_it_came_back() {
        let folder = std::env::temp_dir().join(format!("roundsman-kept-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (mut kept, mut content) = (Kept::default(), Vec::new());
        std::fs::write(folder.join("a"), b"one").unwrap();
        assert!(kept.read(&folder, "/a", 100, &mut content));
        assert_eq!(content, b"one");
        std::fs::write(folder.join("a"), [b'x'; 10_000]).unwrap();
        assert!(kept.read(&folder, "/a", 100_000, &mut content));
        assert_eq!(content.len(), 10_000);
        assert!(kept.read(&folder, "/a", 5_000, &mut content));
        assert_eq!(content.len(), 5_000, "no more than was asked for");
        assert!(!kept.read(&folder, "/b", 100, &mut content), "not there");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_files_of_the_kernel_are_whole_whether_they_are_kept_or_not() {
        let (mut kept, mut content) = (Kept::default(), Vec::new());
        for path in ["/proc/meminfo", "/proc/net/dev", "/proc/diskstats", "/proc/net/snmp", "/proc/stat"] {
            let names = |bytes: &[u8]| -> Vec<String> {
                let text = String::from_utf8_lossy(bytes).into_owned();
                text.lines()
                    .map(|line| line.split(':').next().unwrap_or("").chars().take(12).collect())
                    .collect()
            };
            for _ in 0..2 {
                assert!(kept.read(Path::new("/"), path, 1 << 20, &mut content));
                let plain = std::fs::read(path).unwrap();
                assert_eq!(names(&content).len(), names(&plain).len(), "{path}");
            }
        }
    }
}
