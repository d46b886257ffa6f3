//! `mutants`: shows that the models bite.
//!
//! Each ordering of the ring is weakened and each fence removed in turn, in a copy of the sources; then the order of steps that
//! the protocol depends on is changed. The model that `docs/memory.md` names for it must fail. A mutant that the table doesn't
//! have, a row without a mutant, and a model that passes, are failures of the run.

#![forbid(unsafe_code)]

mod mutants;
mod workshop;

use std::path::Path;
use std::process::ExitCode;

use mutants::{Mutant, Table};
use workshop::{Outcome, Workshop};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("mutants"), None) => match run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!(
                "usage: loom-tests mutants\n\nThe models themselves run with `cargo test -p loom-tests`."
            );
            ExitCode::from(2)
        }
    }
}

/// Whether each mutant was killed by the model that is named for it.
fn run() -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let mutants = mutants::all(root)?;
    let table = Table::read(&root.join("docs/memory.md"))?;
    let stale = table.rows_without(&mutants);
    for row in &stale {
        println!("no such mutant: {row}");
    }

    let workshop = Workshop::open(root)?;
    workshop.all_models_pass()?;
    let mut killed = 0;
    for mutant in &mutants {
        killed += usize::from(is_killed(&workshop, mutant, table.killer_of(&mutant.name))?);
    }
    println!("mutants: {}, killed: {killed}", mutants.len());
    Ok(killed == mutants.len() && stale.is_empty())
}

fn is_killed(workshop: &Workshop, mutant: &Mutant, killer: Option<&str>) -> Result<bool, String> {
    let Mutant { name, .. } = mutant;
    let Some(model) = killer else {
        println!("not in the table: {name}; models that fail: {:?}", workshop.failing_models(mutant)?);
        return Ok(false);
    };
    let outcome = workshop.try_model(mutant, model)?;
    match outcome {
        Outcome::Failed => println!("killed: {name}, by {model}"),
        Outcome::Passed => println!("SURVIVED: {name}, in spite of {model}"),
        Outcome::Endless => println!("SURVIVED: {name}: {model} does not end"),
    }
    Ok(outcome == Outcome::Failed)
}
