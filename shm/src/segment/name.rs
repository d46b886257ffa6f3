//! The name of a segment that has one.
//!
//! `/deeb`, `p` or `c` for whose segment it is, five digits for the process that made it, nineteen that nobody can guess: 98
//! bits. Digits are of base 36. That makes thirty bytes, as many as macOS has room for, and no path can be told with them.

use core::fmt;
use core::str::FromStr;

use super::Kind;

const PREFIX: &str = "/deeb";
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE: u128 = DIGITS.len() as u128;
const PID_DIGITS: usize = 5;
const RANDOM_DIGITS: usize = 19;
const PID_AT: usize = PREFIX.len() + 1;
const RANDOM_AT: usize = PID_AT + PID_DIGITS;
const NAME_BYTES: usize = RANDOM_AT + RANDOM_DIGITS;

// macOS counts the terminating zero among its 31.
const _: () = assert!(NAME_BYTES <= 30);

/// The name of a segment, well-formed: it leads to no file but a segment's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentName([u8; NAME_BYTES]);

/// The text is no name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a segment: {NAME_BYTES} bytes, {PREFIX}, p or c, and digits of base 36")]
pub struct BadName;

impl SegmentName {
    /// A name that nobody has used, for a segment of this process.
    pub(super) fn fresh(kind: Kind) -> std::io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        Ok(Self::new(kind, std::process::id(), u128::from_le_bytes(random)))
    }

    /// A pid of more than five digits is cut: there is none on the systems where pids are looked at.
    fn new(kind: Kind, pid: u32, random: u128) -> Self {
        let mut name = [0; NAME_BYTES];
        name[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        name[PREFIX.len()] = match kind {
            Kind::Producer => b'p',
            Kind::Consumer => b'c',
        };
        write_digits(&mut name[PID_AT..RANDOM_AT], pid.into());
        write_digits(&mut name[RANDOM_AT..], random);
        Self(name)
    }

    /// The name as the system knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).expect("a name is ASCII")
    }

    pub(super) fn kind(&self) -> Kind {
        if self.0[PREFIX.len()] == b'p' { Kind::Producer } else { Kind::Consumer }
    }

    /// The process that made the segment, as it said itself.
    #[cfg(target_os = "linux")]
    pub(super) fn pid(&self) -> u32 {
        self.0[PID_AT..RANDOM_AT].iter().fold(0, |pid, digit| {
            let digit = char::from(*digit).to_digit(36).expect("the digits of a name are of base 36");
            pid * 36 + digit
        })
    }
}

/// The last digits of a number.
fn write_digits(place: &mut [u8], mut number: u128) {
    for digit in place.iter_mut().rev() {
        *digit = DIGITS[(number % BASE) as usize];
        number /= BASE;
    }
}

impl FromStr for SegmentName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let name: [u8; NAME_BYTES] = text.as_bytes().try_into().map_err(|_| BadName)?;
        let well_formed = text.starts_with(PREFIX)
            && matches!(name[PREFIX.len()], b'p' | b'c')
            && name[PID_AT..].iter().all(|digit| DIGITS.contains(digit));
        if well_formed { Ok(Self(name)) } else { Err(BadName) }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is_and_fits_into_thirty_bytes() {
        for (kind, pid, random) in [(Kind::Producer, 1, 0), (Kind::Consumer, 4_194_304, u128::MAX)] {
            let name = SegmentName::new(kind, pid, random);
            assert_eq!(name.as_str().len(), 30);
            assert_eq!((name.kind(), name.pid()), (kind, pid));
            assert_eq!(name.as_str().parse(), Ok(name));
        }
        let [one, other] = [(); 2].map(|()| SegmentName::fresh(Kind::Producer).unwrap());
        assert_eq!((one.pid(), other.pid()), (std::process::id(), std::process::id()));
        assert_ne!(one, other);
    }

    #[test]
    fn no_text_but_a_name_is_one() {
        let good = SegmentName::new(Kind::Producer, 77, 1 << 90).to_string();
        let mut bad: Vec<String> = vec![String::new(), "/".into(), good[1..].into(), format!("{good}0")];
        // Each byte replaced by what a path trick or another alphabet needs.
        for at in 0..good.len() {
            for wrong in ['/', '.', '\0', 'A', ' ', '-'] {
                let mut text = good.clone();
                text.replace_range(at..=at, &wrong.to_string());
                if text != good {
                    bad.push(text);
                }
            }
        }
        bad.push(good.replacen("/deebp", "/deebx", 1));
        bad.push("/deebp/../../../etc/passwd0000".into());
        bad.push(format!("/deebp{}", "é".repeat(12)));
        for text in bad {
            assert_eq!(text.parse::<SegmentName>(), Err(BadName), "{text:?}");
        }
    }
}
