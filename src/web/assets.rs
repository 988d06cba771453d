//! The files under `static/`, inside the program: bytes, type and cache headers as plain data.
//!
//! Every address carries one version, made of all files together: `/static/3f2a9c1e/css/app.css`. A browser
//! may then keep a file for ever, and relative imports between scripts stay within one version. Never
//! touches HTTP: the routes send what this returns.

use std::borrow::Cow;
use std::sync::LazyLock;

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

/// For an address with the current version: its content can never change.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// For an address of another version (a page from before an upgrade): ask again each time.
const ASK_AGAIN: &str = "no-cache";
/// 32 bits tell apart the builds that one browser sees.
const VERSION_BYTES: usize = 4;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// One file with everything that a response needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub bytes: Cow<'static, [u8]>,
    /// With a charset for text.
    pub content_type: String,
    /// Quoted, as the header wants it.
    pub etag: String,
    pub cache_control: &'static str,
}

static BASE: LazyLock<String> = LazyLock::new(|| {
    let mut paths: Vec<_> = Files::iter().collect();
    paths.sort();
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(path.as_bytes());
        if let Some(file) = Files::get(&path) {
            hasher.update(file.metadata.sha256_hash());
        }
    }
    format!("/static/{}", hex(&hasher.finalize(), VERSION_BYTES))
});

/// What the address of every file starts with, without a slash at the end.
#[must_use]
pub fn base() -> &'static str {
    &BASE
}

/// The file at an address below `/static/` (`3f2a9c1e/css/app.css`). None: there is no such file.
#[must_use]
pub fn find(address: &str) -> Option<Asset> {
    let (version, path) = address.split_once('/')?;
    let file = Files::get(path)?;
    let current = base().strip_prefix("/static/") == Some(version);
    let mime = file.metadata.mimetype();
    let textual = mime.starts_with("text/") || mime == "image/svg+xml";
    Some(Asset {
        content_type: if textual { format!("{mime}; charset=utf-8") } else { mime.to_owned() },
        etag: format!("\"{}\"", hex(&file.metadata.sha256_hash(), 16)),
        cache_control: if current { FOR_EVER } else { ASK_AGAIN },
        bytes: file.data,
    })
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Option<Asset> {
        find(&format!("{}/{path}", base().trim_start_matches("/static/")))
    }

    #[test]
    fn a_file_under_the_current_version_may_be_kept_for_ever() {
        let sheet = at("css/app.css").unwrap();
        assert_eq!(sheet.content_type, "text/css; charset=utf-8");
        assert_eq!(sheet.cache_control, FOR_EVER);
        assert!(sheet.etag.starts_with('"') && sheet.etag.ends_with('"') && sheet.etag.len() == 34);
        assert!(at("js/app.js").unwrap().content_type.starts_with("text/javascript"));
    }

    #[test]
    fn a_file_under_an_older_version_is_found_but_not_kept() {
        assert_eq!(find("00000000/css/app.css").unwrap().cache_control, ASK_AGAIN);
    }

    #[test]
    fn what_is_not_a_file_of_ours_is_not_found() {
        for address in ["", "css/app.css", "0/../Cargo.toml", "0/css", "0//etc/passwd", "0/css/%61pp.css"] {
            assert_eq!(find(address), None, "{address}");
        }
    }

    #[test]
    fn our_scripts_never_make_html_or_code_out_of_text() {
        for path in Files::iter().filter(|path| path.starts_with("js/")) {
            let script = String::from_utf8(Files::get(&path).unwrap().data.into_owned()).unwrap();
            for word in ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!script.contains(word), "{path}: {word}");
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for path in Files::iter().filter(|path| path.ends_with(".css") || path.starts_with("js/")) {
            let text = String::from_utf8(Files::get(&path).unwrap().data.into_owned()).unwrap();
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
            assert!(!text.contains("@import") && !text.contains("url("), "{path}");
        }
    }
}
