//! Segments with a name: how long the name is there, who can open it, and what happens where there is no memory for it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::Mode;
use rustix::shm::OFlags;
use shm::{
    Backing, ConsumerSegment, ConsumerView, Handle, ProducerSegment, ProducerView, SegmentError, SegmentName,
    collect_abandoned,
};

const CAPACITY: usize = 1 << 16;
const STRANGER: u32 = 65534;

/// What a process of [`the_child`] does is told by this test binary's environment.
const ROLE: &str = "SHM_ROLE";

/// Gives a process a `/dev/shm` of its own, of 1 MiB.
const PRIVATE: [&str; 5] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=1M tmpfs /dev/shm && exec \"$0\" \"$@\""];

fn name(handle: &Handle) -> SegmentName {
    match handle {
        Handle::Name(name) => *name,
        Handle::Descriptor(descriptor) => panic!("no name: {descriptor:?}"),
    }
}

fn is_there(name: &SegmentName) -> bool {
    PathBuf::from(format!("/dev/shm{name}")).exists()
}

/// The other process of each test here; nothing when the tests are run by hand.
#[test]
fn the_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split_once(' ').unwrap_or((&role, "")) {
        ("make", _) => {
            let (data, marks) = (
                ProducerSegment::create(CAPACITY, Backing::Named).unwrap(),
                ConsumerSegment::create(Backing::Named).unwrap(),
            );
            println!("\nnames {} {}", name(data.handle()), name(marks.handle()));
            // Until it is killed: its input never comes.
            let _ = std::io::stdin().read(&mut [0]);
        }
        ("abandon", _) => abandon(),
        ("open", text) => {
            let refused = ProducerView::attach(Handle::Name(text.parse().unwrap()), CAPACITY).unwrap_err();
            println!("\nrefused {refused}");
        }
        ("fill", _) => {
            let refused = ProducerSegment::create(1 << 21, Backing::Named).unwrap_err();
            println!("\nrefused {refused}");
            assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0, "nothing is left of it");
            // What is small enough can be had.
            let small = ProducerSegment::create(CAPACITY, Backing::Named).unwrap();
            let _view = ProducerView::attach(small.handle().try_clone().unwrap(), CAPACITY).unwrap();
        }
        ("hole", _) => attach_a_hole(),
        other => unreachable!("no such role: {other:?}"),
    }
}

/// A peer's segment of 2 MiB, all of it a hole, where there is 1 MiB.
fn attach_a_hole() {
    let text = "/deebp000010000000000000000000";
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    let hole = rustix::shm::open(text, flags, Mode::RUSR | Mode::WUSR).unwrap();
    let capacity = 1 << 21;
    rustix::fs::ftruncate(&hole, (shm::layout::PRODUCER_HEADER_BYTES + capacity) as u64).unwrap();
    let refused = ProducerView::attach(Handle::Name(text.parse().unwrap()), capacity).unwrap_err();
    assert!(matches!(refused, SegmentError::Sparse(_)), "{refused}");
    println!("\nrefused {refused}");
}

/// This test binary as another process, behind a command that prepares its surroundings.
fn child(role: &str, before: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(&this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&this);
            command
        }
    };
    command.args(["--exact", "the_child", "--nocapture"]).env(ROLE, role);
    command
}

/// The line that a child begins with this word.
fn said(output: &Output, word: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word:?} in {output:?}")).trim().to_owned()
}

/// A process that has made a segment of each kind, and waits.
struct Maker {
    process: Child,
    names: Vec<SegmentName>,
}

impl Maker {
    fn start() -> Self {
        let mut process = child("make", &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("names "));
        let line = line.expect("it says its names");
        let names: Vec<SegmentName> =
            line.split(' ').skip(1).map(|name| name.parse().expect("a name")).collect();
        assert_eq!(names.len(), 2);
        Self { process, names }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _ = self.process.wait();
        for name in &self.names {
            let _ = rustix::shm::unlink(name.as_str());
        }
    }
}

#[test]
fn once_both_sides_have_attached_nothing_has_a_name() {
    let data = ProducerSegment::create(CAPACITY, Backing::Named).unwrap();
    let marks = ConsumerSegment::create(Backing::Named).unwrap();
    let names = [name(data.handle()), name(marks.handle())];
    assert!(names.iter().all(is_there), "the peer has to find them");
    let _seen_data = ProducerView::attach(data.handle().try_clone().unwrap(), CAPACITY).unwrap();
    let _seen_marks = ConsumerView::attach(marks.handle().try_clone().unwrap()).unwrap();
    assert!(!names.iter().any(is_there));
    let second = ProducerView::attach(data.handle().try_clone().unwrap(), CAPACITY).unwrap_err();
    assert!(matches!(second, SegmentError::Gone), "{second}");
}

#[test]
fn what_nobody_attaches_takes_its_name_with_it() {
    let data = ProducerSegment::create(CAPACITY, Backing::Named).unwrap();
    let name = name(data.handle());
    assert!(is_there(&name));
    drop(data);
    assert!(!is_there(&name));
}

#[test]
fn a_name_is_its_owners_alone() {
    use std::os::unix::fs::MetadataExt as _;
    let data = ProducerSegment::create(CAPACITY, Backing::Named).unwrap();
    let name = name(data.handle());
    assert_eq!(std::fs::metadata(format!("/dev/shm{name}")).unwrap().mode() & 0o7777, 0o600);

    let folder = std::env::temp_dir().join(format!("shm-names-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let copy = folder.join("child");
    let this = std::env::current_exe().unwrap();
    let installed = Command::new("install").arg("--mode=755").args([&this, &copy]).status();
    assert!(installed.unwrap().success());
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    command.arg(&copy).args(["--exact", "the_child", "--nocapture"]);
    let output = command.env(ROLE, format!("open {name}")).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let refused = said(&output, "refused ");
    assert!(refused.contains("nor the name of such a segment"), "{refused}");
    assert!(is_there(&name), "it could not remove it either");
}

#[test]
fn what_a_process_left_that_was_killed_before_its_peer_attached_is_collected_at_the_next_start() {
    let collected = said(&child("abandon", &PRIVATE).output().unwrap(), "collected ");
    assert_eq!(collected, "2", "the names of one that was killed, and nothing else");
}

/// Runs where nobody else makes names, or collects them.
fn abandon() {
    let (mut killed, alive) = (Maker::start(), Maker::start());
    // No process has the number zzzzz in base 36.
    let (foreign, other) = ("/deebpzzzzz1111111111111111111", "/deebpzzzzz-");
    for name in [foreign, other] {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let made = rustix::shm::open(name, flags, Mode::RUSR | Mode::WUSR).unwrap();
        if name == foreign {
            rustix::fs::fchown(&made, Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
        }
    }
    killed.kill();
    assert!(killed.names.iter().all(is_there), "a kill leaves them");
    println!("\ncollected {}", collect_abandoned());
    assert!(!killed.names.iter().any(is_there));
    assert!(alive.names.iter().all(is_there), "their maker lives");
    for name in [foreign, other] {
        rustix::shm::unlink(name).expect("it is another user's, or no segment");
    }
}

#[test]
fn a_file_system_without_room_is_a_typed_error_and_no_signal() {
    let refused = said(&child("fill", &PRIVATE).output().unwrap(), "refused ");
    assert!(refused.contains("can't allocate a segment: No space left on device"), "{refused}");
    let refused = said(&child("hole", &PRIVATE).output().unwrap(), "refused ");
    assert!(refused.contains("can't be filled with memory: No space left on device"), "{refused}");
}
