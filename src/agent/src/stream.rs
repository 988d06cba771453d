//! `stream`: a greeting, then one line of JSON for each request line, until standard input ends.
//!
//! The other end is a central server over a long-lived SSH channel. Nothing runs between requests: no timers, no
//! threads, and what a reading starts is over before its answer is written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, Write};

use crate::local::{Memory, Reader};
use crate::snapshot::Sections;
use crate::{json, limits, sha256};

/// What the shell probe calls each section in its requests, and its name in the greeting.
const LETTERS: [(char, &str); 7] = [
    ('p', "processes"),
    ('s', "services"),
    ('u', "users"),
    ('f', "facts"),
    ('c', "containers"),
    ('k', "packages"),
    ('t', "sockets"),
];

/// An answer over this is written and its buffer given back, so that one large reading does not stay in memory.
const KEPT_BYTES: usize = 128 * 1024;

/// `r 17 -pu`: the number that the answer repeats, and the sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub number: u64,
    pub sections: Sections,
}

/// Why a line is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    TooLong,
    NotText,
    /// Not `r NUMBER [-LETTERS]`.
    Unknown,
    Letter(char),
}

impl Malformed {
    /// One sentence for the answer.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::TooLong => format!("a request has at most {} bytes", limits::REQUEST_LINE_BYTES),
            Self::NotText => "a request is text".to_owned(),
            Self::Unknown => "a request is 'r NUMBER -LETTERS'".to_owned(),
            Self::Letter(letter) => format!("there is no section '{letter}'"),
        }
    }
}

/// Parses a request line without its line break. The hyphen may be left out, and so may the letters: then only
/// the base is read.
///
/// # Errors
/// See [`Malformed`]; nothing of such a line is acted on.
pub fn request(line: &[u8]) -> Result<Request, Malformed> {
    let text = std::str::from_utf8(line).map_err(|_| Malformed::NotText)?;
    let mut words = text.trim_end_matches('\r').split(' ');
    let (Some("r"), Some(number), letters, None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::Unknown);
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::Unknown);
    }
    let number = number.parse().map_err(|_| Malformed::Unknown)?;
    let letters = letters.unwrap_or("");
    let mut sections = Sections::BASE;
    for letter in letters.strip_prefix('-').unwrap_or(letters).chars() {
        match letter {
            'p' => sections.processes = true,
            's' => sections.services = true,
            'u' => sections.users = true,
            'f' => sections.facts = true,
            'c' => sections.containers = true,
            'k' => sections.packages = true,
            't' => sections.sockets = true,
            // The shell probe's filesystems on request; the agent decides by itself.
            'd' => {}
            other => return Err(Malformed::Letter(other)),
        }
    }
    Ok(Request { number, sections })
}

/// Who answers, in one line of JSON. `build` is the SHA-256 of the program's file, so that whoever has uploaded one
/// knows whether this is it; `null` where the file cannot be read any more.
#[must_use]
pub fn greeting(reader: &Reader) -> String {
    let constants = reader.constants();
    let build = build();
    let boot_id = reader.boot_id();
    let mut line = format!(
        "{{\"name\":\"roundsman-agent\",\"version\":\"{}\",\"protocol\":1,\"build\":{},\"arch\":{},\"ticks\":",
        env!("CARGO_PKG_VERSION"),
        json::string(build.as_deref()),
        json::string(constants.architecture),
    );
    // Writing to a String cannot fail.
    let _ = match constants.ticks_per_second {
        Some(ticks) => write!(line, "{ticks}"),
        None => write!(line, "null"),
    };
    let _ = write!(
        line,
        ",\"page_size\":{},\"boot_id\":{},\"capabilities\":[",
        constants.page_bytes,
        json::string(boot_id.as_deref()),
    );
    for (position, (_, name)) in LETTERS.iter().enumerate() {
        let _ = write!(line, "{}\"{name}\"", if position > 0 { "," } else { "" });
    }
    line.push_str("]}");
    line
}

/// SHA-256 of the running program's file. `None`: it cannot be read.
#[must_use]
pub fn build() -> Option<String> {
    let file = File::open("/proc/self/exe").ok()?;
    sha256::hex(io::BufReader::new(file)).ok()
}

/// Greets, then answers until `input` ends. A last line without a line break was cut off, so it is not answered.
///
/// # Errors
/// When `output` is closed or `input` broken: there is nobody left to tell.
pub fn run(reader: &Reader, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "{}", greeting(reader))?;
    output.flush()?;
    let mut memory = Memory::default();
    let mut line = Vec::with_capacity(limits::REQUEST_LINE_BYTES);
    let mut answer = String::new();
    loop {
        let parsed = match read_line(input, &mut line)? {
            Line::Whole => request(&line),
            Line::TooLong => Err(Malformed::TooLong),
            Line::End => return Ok(()),
        };
        answer.clear();
        match parsed {
            Ok(Request { number, sections }) => {
                // Writing to a String cannot fail.
                let _ = write!(answer, "{{\"request\":{number},\"snapshot\":");
                reader.write_again(sections, &mut memory, &mut answer, |text| {
                    output.write_all(text.as_bytes())?;
                    text.clear();
                    Ok::<(), io::Error>(())
                })?;
            }
            Err(malformed) => {
                answer.push_str("{\"request\":null,\"error\":");
                answer.push_str(&json::string(Some(&malformed.reason())));
            }
        }
        answer.push_str("}\n");
        output.write_all(answer.as_bytes())?;
        output.flush()?;
        if answer.capacity() > KEPT_BYTES {
            answer = String::new();
        }
    }
}

enum Line {
    Whole,
    /// Longer than [`limits::REQUEST_LINE_BYTES`]; its rest was read and thrown away.
    TooLong,
    End,
}

/// One line without its line break into `line`, which never grows over the limit however long the line is.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(Line::End);
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len() + part.len() > limits::REQUEST_LINE_BYTES {
            too_long = true;
        } else {
            line.extend_from_slice(part);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(if too_long { Line::TooLong } else { Line::Whole });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_number_and_sections() {
        let base = |number| Request { number, sections: Sections::BASE };
        assert_eq!(request(b"r 7"), Ok(base(7)));
        assert_eq!(request(b"r 7 -"), Ok(base(7)));
        assert_eq!(request(b"r 7 -d\r"), Ok(base(7)));
        let some = Sections { processes: true, users: true, ..Sections::BASE };
        assert_eq!(request(b"r 18446744073709551615 -pu"), Ok(Request { number: u64::MAX, sections: some }));
        assert_eq!(request(b"r 1 psufckt"), Ok(Request { number: 1, sections: Sections::ALL }));
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        for wrong in
            ["", "r", "r ", "r x", "r -1", "r +1", "q 1", "r 1 -p more", "r 18446744073709551616", "R 1"]
        {
            assert_eq!(request(wrong.as_bytes()), Err(Malformed::Unknown), "{wrong}");
        }
        assert_eq!(request(b"r 1 -px"), Err(Malformed::Letter('x')));
        assert_eq!(request(b"r 1 \xff"), Err(Malformed::NotText));
    }
}
