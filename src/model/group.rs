//! A group: servers that were chosen by hand, or by what they are.

use std::fmt;

use serde::Serialize;

use super::server::{SHOWN_CHARS, is_name};
use super::words::words;
use super::{GroupId, OrganizationId, Selector, Timestamp, shown};

/// Why a field of a group was refused. The text is for a person and says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroup {
    #[error(
        "'{0}' is not a group name: use 1 to 63 letters, digits, dots, dashes or underscores, not only digits, not a UUID, and not 'new' or 'members'"
    )]
    Name(String),
    #[error(
        "'{0}' is not a colour: use grey, blue, teal, green, olive, amber, brown, red, pink or violet, or #rrggbb for the nearest of them"
    )]
    Colour(String),
}

/// Words that stand where a name could stand in an address.
const RESERVED: [&str; 2] = ["new", "members"];

/// Unique in its organization; the rules of server names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GroupName(String);

impl GroupName {
    /// # Errors
    /// [`InvalidGroup::Name`] with what would be accepted.
    pub fn parse(text: &str) -> Result<Self, InvalidGroup> {
        if is_name(text) && !RESERVED.contains(&text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidGroup::Name(shown(text, SHOWN_CHARS)))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

words! {
    /// A colour that can be read in both themes; pages know which shade it is in each.
    Colour, InvalidGroup::Colour {
        Grey = "grey",
        Blue = "blue",
        Teal = "teal",
        Green = "green",
        Olive = "olive",
        Amber = "amber",
        Brown = "brown",
        Red = "red",
        Pink = "pink",
        Violet = "violet",
    }
}

impl Colour {
    /// A word of the palette, or `#rrggbb`, which means the nearest of it.
    ///
    /// # Errors
    /// [`InvalidGroup::Colour`] with what would be accepted.
    pub fn parse(text: &str) -> Result<Self, InvalidGroup> {
        let text = text.trim();
        let Some(digits) = text.strip_prefix('#') else { return text.to_ascii_lowercase().parse() };
        let invalid = || InvalidGroup::Colour(shown(text, SHOWN_CHARS));
        let is_hex = digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex).ok_or_else(invalid)?;
        Self::ALL.iter().copied().min_by_key(|colour| distance(colour.shade(), number)).ok_or_else(invalid)
    }

    /// What stands for the colour when another one is compared with it.
    const fn shade(self) -> u32 {
        match self {
            Self::Grey => 0x0064_748B,
            Self::Blue => 0x003B_82F6,
            Self::Teal => 0x0014_B8A6,
            Self::Green => 0x0022_C55E,
            Self::Olive => 0x0084_CC16,
            Self::Amber => 0x00F5_9E0B,
            Self::Brown => 0x0092_5B32,
            Self::Red => 0x00EF_4444,
            Self::Pink => 0x00EC_4899,
            Self::Violet => 0x008B_5CF6,
        }
    }
}

fn distance(left: u32, right: u32) -> u32 {
    let channel = |shift: u32| ((left >> shift) & 0xFF).abs_diff((right >> shift) & 0xFF).pow(2);
    channel(16) + channel(8) + channel(0)
}

/// A group as it is stored, without its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    pub organization: OrganizationId,
    pub name: GroupName,
    pub description: String,
    pub colour: Colour,
    /// What chooses the members: tags, regions, environments, health. None: they are chosen by hand.
    pub filter: Option<Selector>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Group {
    /// `static` or `dynamic`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.filter.is_some() { "dynamic" } else { "static" }
    }

    /// Whether somebody who says this means the group.
    #[must_use]
    pub fn is_called(&self, reference: &str) -> bool {
        self.name.as_str() == reference || reference.parse() == Ok(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_follow_the_rule_of_servers_and_leave_out_words_of_addresses() {
        assert!(GroupName::parse("web-frontends").is_ok());
        for bad in ["", "12", "a b", "new", "members", "<b>", "01890000-0000-7000-8000-000000000001"] {
            assert!(GroupName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_colour_is_a_word_or_the_nearest_one() {
        for (text, colour) in [
            ("teal", Colour::Teal),
            (" Red ", Colour::Red),
            ("#3b82f6", Colour::Blue),
            ("#FF0000", Colour::Red),
            ("#000000", Colour::Brown),
        ] {
            assert_eq!(Colour::parse(text), Ok(colour), "{text}");
        }
        for bad in ["", "#12345", "#+12345", "puce", "#gggggg"] {
            assert!(Colour::parse(bad).is_err(), "{bad}");
        }
    }
}
