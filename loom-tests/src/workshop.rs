//! A copy of the sources in which one thing at a time is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::mutants::Mutant;

/// No model takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a test program exits with when tests of it failed.
const TESTS_FAILED: i32 = 101;

/// What became of a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Endless,
}

/// The copy: it lies among the build's own files, and is removed with this value.
#[derive(Debug)]
pub(crate) struct Workshop {
    root: PathBuf,
    target: PathBuf,
}

impl Workshop {
    /// Copies what the models are built from.
    pub(crate) fn open(root: &Path) -> Result<Self, String> {
        let target = root.join("target/mutants");
        let copy = target.join("sources");
        let workshop = Self { root: copy.clone(), target };
        remove(&copy)?;
        for part in ["shm/src", "loom-tests/src", "loom-tests/tests", "src"] {
            copy_folder(&root.join(part), &copy.join(part))?;
        }
        for part in ["Cargo.toml", "Cargo.lock", "shm/Cargo.toml", "loom-tests/Cargo.toml"] {
            copy_file(&root.join(part), &copy.join(part))?;
        }
        // Cargo wants each target of a workspace to have its file.
        for part in ["tests", "benches", "shm/benches", "shm/tests"] {
            copy_folder(&root.join(part), &copy.join(part))?;
        }
        Ok(workshop)
    }

    /// Makes sure that a model fails for its mutant and not for itself.
    pub(crate) fn all_models_pass(&self) -> Result<(), String> {
        let failing = self.failing()?;
        if failing.is_empty() {
            Ok(())
        } else {
            Err(format!("models that fail without a mutant: {failing:?}"))
        }
    }

    /// Runs one model over a mutant.
    pub(crate) fn try_model(&self, mutant: &Mutant, model: &str) -> Result<Outcome, String> {
        let file = self.file_of(model)?;
        self.with(mutant, || {
            let binary = self.build(&["--test", &file])?;
            let mut run = self.run(binary.first().expect("one at least was built"));
            self.watch(run.args(["--exact", model]).stdout(Stdio::null()))
        })
    }

    /// Which models fail over a mutant.
    pub(crate) fn failing_models(&self, mutant: &Mutant) -> Result<Vec<String>, String> {
        self.with(mutant, || self.failing())
    }

    fn failing(&self) -> Result<Vec<String>, String> {
        let mut failing = Vec::new();
        for binary in self.build(&["--tests"])? {
            let output = self.run(&binary).output().map_err(said("a model"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let before = failing.len();
            let failed =
                text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
            failing.extend(failed.map(str::to_owned));
            if output.status.success() != (failing.len() == before) {
                return Err(format!("{}: {}\n{text}", binary.display(), output.status));
            }
        }
        Ok(failing)
    }

    /// Runs `then` while the copy has the mutant's source.
    fn with<T>(&self, mutant: &Mutant, then: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let path = self.root.join(&mutant.file);
        let sound = fs::read_to_string(&path).map_err(said(&mutant.file))?;
        fs::write(&path, &mutant.source).map_err(said(&mutant.file))?;
        let result = then().map_err(|error| format!("{}: {error}", mutant.name));
        fs::write(&path, sound).map_err(said(&mutant.file))?;
        result
    }

    /// Builds models, and yields the programs that hold them.
    fn build(&self, which: &[&str]) -> Result<Vec<PathBuf>, String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("CARGO_TERM_COLOR", "never");
        cargo.args(["test", "--no-run", "--locked", "--package", "loom-tests"]).args(which);
        let output = cargo.output().map_err(said("cargo"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("it does not compile:\n{text}"));
        }
        let programs = text.lines().filter_map(|line| line.trim_start().strip_prefix("Executable "));
        let paths = programs.filter_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
        let paths: Vec<PathBuf> = paths.map(|path| self.root.join(path)).collect();
        if paths.is_empty() { Err(format!("cargo built nothing:\n{text}")) } else { Ok(paths) }
    }

    fn run(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("RUST_BACKTRACE", "0").stderr(Stdio::null());
        command
    }

    /// Waits for a model, but not for ever.
    fn watch(&self, command: &mut Command) -> Result<Outcome, String> {
        let mut child = command.spawn().map_err(said("a model"))?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(said("a model"))? {
                return match status.code() {
                    Some(0) => Ok(Outcome::Passed),
                    Some(TESTS_FAILED) => Ok(Outcome::Failed),
                    _ => Err(format!("a model ended with {status}")),
                };
            }
            if start.elapsed() > DEADLINE {
                child.kill().and_then(|()| child.wait()).map_err(said("a model"))?;
                return Ok(Outcome::Endless);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The test file that holds a model.
    fn file_of(&self, model: &str) -> Result<String, String> {
        let folder = fs::read_dir(self.root.join("loom-tests/tests")).map_err(said("the models"))?;
        for entry in folder.flatten() {
            let source = fs::read_to_string(entry.path()).map_err(said("a model"))?;
            if source.contains(&format!("fn {model}()")) {
                let stem = entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
                return stem.ok_or_else(|| format!("{model} stands in a file without a name"));
            }
        }
        Err(format!("there is no model {model}"))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What is left lies among the build's own files, and is replaced by the next run.
        let _ = remove(&self.root);
    }
}

fn said(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(said("the copy")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    for entry in fs::read_dir(from).map_err(said("the sources"))?.flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy_folder(&from, &to)? } else { copy_file(&from, &to)? }
    }
    Ok(())
}

/// What is a link is the copy of the file that it leads to, so that a mutant of the one is one of the other.
fn copy_file(from: &Path, to: &Path) -> Result<(), String> {
    let folder = to.parent().expect("each part has a folder");
    let copied = fs::create_dir_all(folder).and_then(|()| match fs::read_link(from) {
        Ok(original) => fs::hard_link(folder.join(original), to),
        Err(_) => fs::copy(from, to).map(drop),
    });
    copied.map_err(said("the sources"))
}
