//! JSON, made fit for a terminal: a program reads of it what strangers have written, and what a terminal would obey is an escape.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::printable::is_visible;

/// Adds a line with a value. Nothing is added of one that JSON has no words for.
pub(crate) fn line(value: &impl Serialize, text: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let before = text.len();
    let written = value.serialize(&mut Serializer::with_formatter(&mut *text, Visible));
    match written {
        Ok(()) => text.push(b'\n'),
        Err(_) => text.truncate(before),
    }
    written
}

/// Writes what is not visible as itself as an escape.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            let mut room = [0; 4];
            if is_visible(character) {
                writer.write_all(character.encode_utf8(&mut room).as_bytes())?;
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::printable::is_visible;

    #[test]
    fn json_holds_what_was_published_and_steers_no_terminal() {
        let text = "plain 東京 \u{9b}31m \u{7f} \u{202e} \u{1b}[2J \u{e0001} \" \\ \n";
        let mut line = Vec::new();
        super::line(&text, &mut line).expect("a text");
        let line = String::from_utf8(line).expect("JSON is UTF-8");
        assert_eq!(serde_json::from_str::<String>(&line).expect("it is JSON"), text);
        let line = line.trim_end();
        assert!(
            line.contains("東京") && line.chars().all(|shown| shown == '\\' || is_visible(shown)),
            "{line}"
        );
    }
}
