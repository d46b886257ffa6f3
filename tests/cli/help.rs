//! What each command says of itself, and how.

use std::process::{Command, Output};

const COMMANDS: [&str; 6] = ["broker", "pub", "sub", "status", "doctor", "demo"];

fn help(command: &[&str]) -> Command {
    let mut help = Command::new(env!("CARGO_BIN_EXE_eventbus"));
    help.args(command).arg("--help").env_remove("NO_COLOR");
    help
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn each_command_has_examples_and_says_what_its_exit_codes_mean() {
    let whole = text(&help(&[]).output().expect("it starts"));
    for command in COMMANDS {
        let listed = whole.lines().any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(listed, "{command} is not among the commands: {whole}");
        let shown = help(&[command]).output().expect("it starts");
        assert_eq!(shown.status.code(), Some(0), "{command}");
        let text = text(&shown);
        let (_, examples) = text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{command}: {text}"));
        let (examples, codes) =
            examples.split_once("\nExit codes:\n").unwrap_or_else(|| panic!("{command}: {text}"));
        assert!(examples.contains(&format!("eventbus {command}")), "{command}: {examples}");
        let codes: Vec<u8> =
            codes.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        assert!(codes.len() >= 3 && codes[0] == 0 && codes.is_sorted(), "{command}: {codes:?}");
    }
}

#[test]
fn there_is_no_color_where_nobody_wants_any() {
    const ESCAPE: char = '\u{1b}';
    let piped = text(&help(&["status"]).output().expect("it starts"));
    assert!(!piped.contains(ESCAPE), "a pipe is no terminal");
    // `script` gives it a terminal.
    let on_terminal = |no_color: Option<&str>| {
        let mut script = Command::new("script");
        let words = concat!(env!("CARGO_BIN_EXE_eventbus"), " status --help");
        script.args(["-qec", words, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm-256color");
        script.envs(no_color.map(|wish| ("NO_COLOR", wish)));
        text(&script.output().expect("it is installed"))
    };
    assert!(on_terminal(None).contains(ESCAPE), "a terminal is one that shows colors");
    assert!(!on_terminal(Some("1")).contains(ESCAPE), "who wants no color has none");
}
