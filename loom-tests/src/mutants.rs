//! What can be wrong with the ring's orderings: found in its sources, one by one, and by hand where the order of steps matters.

use std::collections::BTreeMap;
use std::path::Path;

mod steps;

/// A change to one source file.
#[derive(Debug)]
pub(crate) struct Mutant {
    /// `file::function LABEL change`, or what was done to the order of steps.
    pub(crate) name: String,
    /// The file, from the root of the workspace.
    pub(crate) file: String,
    /// What the file holds then.
    pub(crate) source: String,
}

const FILES: [&str; 2] = ["producer", "consumer"];

/// All mutants of the ring.
pub(crate) fn all(root: &Path) -> Result<Vec<Mutant>, String> {
    let mut mutants = Vec::new();
    for file in FILES {
        let path = format!("shm/src/{file}.rs");
        let source = std::fs::read_to_string(root.join(&path)).map_err(|error| format!("{path}: {error}"))?;
        mutants.extend(weakened(file, &path, &source)?);
        for step in steps::of(file) {
            mutants.push(step.apply(file, &path, &source)?);
        }
    }
    Ok(mutants)
}

/// One mutant for each way to weaken each ordering of a source.
fn weakened(file: &str, path: &str, source: &str) -> Result<Vec<Mutant>, String> {
    let lines: Vec<&str> = source.lines().collect();
    let (mut function, mut label) = ("", None);
    let mut seen = BTreeMap::new();
    let mut mutants = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if let Some(name) = function_name(code) {
            (function, label) = (name, None);
        }
        if let Some(comment) = code.strip_prefix("// ") {
            label = label_of(comment).or(label);
            continue;
        }
        for (change, weaker) in weaker_forms(line) {
            let label = label.ok_or_else(|| format!("{path}:{}: an ordering without a label", index + 1))?;
            let name = format!("{file}::{function} {label} {change}");
            let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
            let name = if *count > 1 { format!("{name} ({count})") } else { name };
            let mut changed = lines.clone();
            changed[index] = &weaker;
            mutants.push(Mutant { name, file: path.to_owned(), source: changed.join("\n") });
        }
    }
    Ok(mutants)
}

/// What a line with an ordering may be weakened to, and what that change is called.
fn weaker_forms(line: &str) -> Vec<(&'static str, String)> {
    let replaced = |from, to| line.replacen(from, to, 1);
    if line.contains("fence(Ordering::SeqCst)") {
        let weaker = replaced("Ordering::SeqCst", "Ordering::AcqRel");
        return vec![("removed", String::new()), ("AcqRel", weaker)];
    }
    if line.contains("fence(Ordering::") {
        return vec![("removed", String::new())];
    }
    ["Ordering::Release", "Ordering::Acquire", "Ordering::AcqRel", "Ordering::SeqCst"]
        .into_iter()
        .filter(|ordering| line.contains(ordering))
        .map(|ordering| ("relaxed", replaced(ordering, "Ordering::Relaxed")))
        .collect()
}

fn function_name(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let declares = before.is_empty() || before.starts_with("pub");
    declares.then(|| after.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next())?
}

/// `DATA: pairs with …` is labelled `DATA`.
fn label_of(comment: &str) -> Option<&str> {
    let (label, _) = comment.split_once(": ")?;
    label.chars().all(|letter| letter.is_ascii_uppercase()).then_some(label)
}

/// Which model kills which mutant: the rows of the documentation that begin with two names in backticks.
#[derive(Debug)]
pub(crate) struct Table(BTreeMap<String, String>);

impl Table {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (_, section) = text.split_once("\n## Mutants\n").ok_or("there is no section \"Mutants\"")?;
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('`');
            let (mutant, model) = (cells.next()?, cells.nth(1)?);
            Some((mutant.to_owned(), model.to_owned()))
        });
        let mut table = BTreeMap::new();
        for (mutant, model) in rows {
            if table.contains_key(&mutant) {
                return Err(format!("{mutant} has two rows"));
            }
            table.insert(mutant, model);
        }
        Ok(Self(table))
    }

    pub(crate) fn killer_of(&self, mutant: &str) -> Option<&str> {
        self.0.get(mutant).map(String::as_str)
    }

    pub(crate) fn rows_without(&self, mutants: &[Mutant]) -> Vec<&str> {
        let rows = self.0.keys().map(String::as_str);
        rows.filter(|row| mutants.iter().all(|mutant| mutant.name != *row)).collect()
    }
}
