//! Each test has a folder of its own, and what binds in it is of this process: `flock` tells open files apart, not processes.

use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::process::Command;

use super::*;
use crate::sys::SocketGroup;

fn folder() -> tempfile::TempDir {
    let ours_alone = PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(ours_alone).tempdir().expect("a temporary folder")
}

fn only(mode: u32) -> Access {
    Access { mode, group: None }
}

fn bind(path: &Path) -> Result<Listener, ListenError> {
    bind_as(path, &only(0o600))
}

fn bind_as(path: &Path, access: &Access) -> Result<Listener, ListenError> {
    Listener::bind(path, access, &Secret::new().expect("memory"))
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_added_extension("lock")
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("it is there").ino()
}

/// A socket that nobody serves any more.
fn stale(path: &Path) {
    drop(StdListener::bind(path).expect("a free path"));
    assert!(path.exists());
}

#[tokio::test]
async fn a_live_brokers_path_is_refused_and_stays_its_own() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let first = bind(&path).expect("a free path");
    let (socket, lock) = (inode(&path), inode(&lock_of(&path)));
    for _ in 0..2 {
        let second = bind(&path);
        assert!(matches!(second, Err(ListenError::Live { .. })), "{second:?}");
    }
    assert_eq!((inode(&path), inode(&lock_of(&path))), (socket, lock));
    let client = StdStream::connect(&path).expect("it still listens");
    first.accept().await.expect("a client");
    drop(client);
}

#[tokio::test]
async fn a_live_socket_is_not_taken_over_though_its_lock_file_was_deleted() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let first = bind(&path).expect("a free path");
    let socket = inode(&path);
    std::fs::remove_file(lock_of(&path)).expect("it is there");
    let second = bind(&path);
    assert!(matches!(second, Err(ListenError::Live { .. })), "{second:?}");
    assert_eq!(inode(&path), socket);
    drop(first);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    stale(&path);
    std::fs::write(lock_of(&path), "").expect("what a killed broker leaves");
    let listener = bind(&path).expect("nobody serves it");
    StdStream::connect(&path).expect("we do now");
    drop(listener);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
}

#[tokio::test]
async fn what_is_not_a_socket_is_refused_and_untouched() {
    let folder = folder();
    let (file, link, elsewhere) =
        (folder.path().join("file"), folder.path().join("link"), folder.path().join("elsewhere"));
    std::fs::write(&file, "precious").expect("a file");
    stale(&elsewhere);
    std::os::unix::fs::symlink(&elsewhere, &link).expect("a link");
    for path in [&file, &link, &folder.path().to_owned()] {
        let refused = bind(path);
        assert!(matches!(refused, Err(ListenError::NotASocket { .. })), "{refused:?}");
        assert!(!lock_of(path).exists(), "the lock goes with the attempt");
    }
    assert_eq!(std::fs::read(&file).expect("still a file"), b"precious");
    assert!(elsewhere.exists() && link.is_symlink());
}

#[tokio::test]
async fn a_lock_file_that_is_a_link_is_not_followed() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    std::os::unix::fs::symlink(folder.path().join("target"), lock_of(&path)).expect("a link");
    let refused = bind(&path);
    assert!(matches!(refused, Err(ListenError::Host { .. })), "{refused:?}");
    assert!(!folder.path().join("target").exists() && !path.exists());
}

#[tokio::test]
async fn the_longest_path_can_be_had_and_one_byte_more_is_refused() {
    let folder = folder();
    let fill = PATH_BYTES_MAX - folder.path().as_os_str().len() - 1;
    let longest = folder.path().join("x".repeat(fill));
    assert_eq!(longest.as_os_str().len(), PATH_BYTES_MAX);
    drop(bind(&longest).expect("it fits"));
    let refused = bind(&folder.path().join("x".repeat(fill + 1)));
    assert!(matches!(refused, Err(ListenError::PathTooLong { bytes: 108, .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_missing_folder_is_made_for_its_owner_alone() {
    let folder = folder();
    let made = folder.path().join("a");
    let refused = bind(&made.join("b/bus.sock"));
    assert!(matches!(refused, Err(ListenError::Host { .. })), "more than one would be a slip: {refused:?}");
    assert!(!made.exists());
    let _listener = bind(&made.join("bus.sock")).expect("a free path");
    assert_eq!(std::fs::metadata(made).expect("it was made").mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_folder_that_anybody_can_write_to_is_refused_unless_it_is_sticky() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let mode = |mode| std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).expect("ours");
    mode(0o777);
    let refused = bind(&path);
    assert!(matches!(refused, Err(ListenError::Folder { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    mode(0o1777);
    bind(&path).expect("as in /tmp");
}

#[tokio::test]
async fn a_listener_that_goes_removes_its_own_files_and_never_a_successors() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let first = bind(&path).expect("a free path");
    // Somebody tidied up, and another broker has started since.
    std::fs::remove_file(&path).expect("it is there");
    std::fs::remove_file(lock_of(&path)).expect("it is there");
    let second = bind(&path).expect("nothing is there");
    drop(first);
    StdStream::connect(&path).expect("the second still listens");
    assert!(matches!(bind(&path), Err(ListenError::Live { .. })), "and still holds its lock");
    drop(second);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
}

#[tokio::test]
async fn of_many_that_start_at_once_at_a_stale_path_one_listens() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    for _ in 0..20 {
        stale(&path);
        let runtime = tokio::runtime::Handle::current();
        let start = std::sync::Barrier::new(4);
        let started: Vec<_> = std::thread::scope(|scope| {
            let starters = [(); 4].map(|()| {
                scope.spawn(|| {
                    let _runtime = runtime.enter();
                    start.wait();
                    bind(&path)
                })
            });
            starters.map(|starter| starter.join().expect("no panic")).into_iter().collect()
        });
        let refused = started.iter().filter(|started| matches!(started, Err(ListenError::Live { .. })));
        assert_eq!(refused.count(), 3, "{started:?}");
        StdStream::connect(&path).expect("the one that started listens");
    }
}

#[tokio::test]
async fn a_lock_that_was_waited_for_while_its_holder_went_is_taken_anew() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    match Lock::take(&path) {
                        Ok(lock) => assert!(lock.is_there(), "a lock on a file that is gone"),
                        Err(error) => assert!(matches!(error, ListenError::Live { .. }), "{error}"),
                    }
                }
            });
        }
    });
    assert!(!lock_of(&path).exists(), "the last one leaves nothing");
}

#[tokio::test]
async fn the_file_has_the_mode_that_was_asked_for() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    for mode in [0o600, 0o660, 0o666] {
        let _listener = bind_as(&path, &only(mode)).expect("a free path");
        assert_eq!(std::fs::metadata(&path).expect("a socket").mode() & 0o7777, mode);
        assert_eq!(std::fs::metadata(lock_of(&path)).expect("a lock").mode() & 0o7777, 0o600);
    }
}

/// The umask belongs to the whole process, so the test above is run in processes of their own.
#[test]
fn the_mode_does_not_depend_on_the_umask() {
    let this = std::env::current_exe().expect("a test binary");
    for umask in ["000", "022", "077", "027"] {
        let run = Command::new("sh")
            .args(["-c", "umask $1 && exec \"$0\" --exact \"$2\""])
            .arg(&this)
            .args([umask, "sys::listener::tests::the_file_has_the_mode_that_was_asked_for"])
            .output()
            .expect("a shell");
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && output.contains("1 passed"), "umask {umask}: {output}");
    }
}

#[tokio::test]
async fn a_link_is_followed_only_where_nobody_else_can_have_put_it() {
    let folder = folder();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::create_dir(&real).expect("a folder");
    std::os::unix::fs::symlink("real", &link).expect("a link");
    drop(bind(&link.join("bus.sock")).expect("a link of ours, in a folder of ours"));
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o1777)).expect("ours");
    let refused = bind(&link.join("bus.sock"));
    assert!(matches!(&refused, Err(ListenError::Folder { folder, .. }) if *folder == link), "{refused:?}");
    assert_eq!(std::fs::read_dir(&real).expect("a folder").count(), 0, "nothing was made where it leads");
    bind(&real.join("bus.sock")).expect("the folder itself is ours");
    bind(&real.join("../real/bus.sock")).expect("and so it is by any other path without a link");
}

#[tokio::test]
async fn a_folder_that_can_be_exchanged_is_refused_though_nobody_else_can_write_to_it() {
    let folder = folder();
    let (open, own) = (folder.path().join("open"), folder.path().join("open/own"));
    for path in [&open, &own] {
        std::fs::create_dir(path).expect("a folder");
    }
    let mode = |mode| std::fs::set_permissions(&open, PermissionsExt::from_mode(mode)).expect("ours");
    mode(0o777);
    let refused = bind(&own.join("bus.sock"));
    assert!(matches!(&refused, Err(ListenError::Folder { folder, .. }) if *folder == open), "{refused:?}");
    assert_eq!(std::fs::read_dir(&own).expect("a folder").count(), 0);
    mode(0o1777);
    bind(&own.join("bus.sock")).expect("nobody else can take away what is ours");
}

/// Root alone can give files to others; so do all tests with two users need root.
#[tokio::test]
async fn a_folder_of_another_user_or_open_to_another_group_is_refused() {
    if rustix::process::geteuid().as_raw() != 0 {
        return;
    }
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let give =
        |user, group| std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).expect("as root");
    let mode = |mode| std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).expect("ours");
    give(0, 4711);
    for open in [0o770, 0o775] {
        mode(open);
        let refused = bind(&path);
        assert!(matches!(refused, Err(ListenError::Folder { .. })), "{refused:?}");
    }
    mode(0o750);
    drop(bind(&path).expect("the group can't write"));
    mode(0o1770);
    drop(bind(&path).expect("the group can't take away what is ours"));
    give(65534, 0);
    mode(0o700);
    let refused = bind(&path);
    assert!(matches!(refused, Err(ListenError::Folder { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn the_socket_goes_to_its_group_and_the_lock_to_nobody() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let own = rustix::process::getegid().as_raw();
    let as_root = rustix::process::geteuid().as_raw() == 0;
    let group = if as_root { 4711 } else { own };
    let access = |group: SocketGroup| Access { mode: 0o660, group: Some(group) };
    let listener = bind_as(&path, &access(group.into())).expect("a group that it may give it to");
    let found = std::fs::metadata(&path).expect("a socket");
    assert_eq!((found.gid(), found.mode() & 0o7777), (group, 0o660));
    let lock = std::fs::metadata(lock_of(&path)).expect("a lock");
    assert_eq!((lock.gid(), lock.mode() & 0o7777), (own, 0o600));
    drop(listener);
    if as_root {
        bind_as(&path, &access("root".into())).expect("a group that each host has");
    }
    let refused = bind_as(&path, &access("no such group".into()));
    assert!(matches!(refused, Err(ListenError::NoGroup { source: None, .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_dead_brokers_key_is_replaced_and_what_is_none_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let key = path.with_added_extension("key");
    let secret = Secret::new().expect("memory");
    for left in [&[1; SECRET_BYTES][..], &[]] {
        std::fs::write(&key, left).expect("our folder");
        let listener = Listener::bind(&path, &only(0o600), &secret).expect("a free path");
        let found = std::fs::read(&key).expect("it is there");
        assert_eq!(found, secret.with(|bytes| bytes.to_vec()).expect("it can be read"));
        drop(listener);
        assert!(!key.exists());
    }
    std::fs::write(&key, [1; SECRET_BYTES + 1]).expect("our folder");
    let error = bind(&path).expect_err("it is somebody's");
    assert!(error.to_string().contains("what is there is no broker's key"), "{error}");
    assert_eq!(std::fs::read(&key).expect("it is there").len(), SECRET_BYTES + 1);
    assert!(!path.exists() && !lock_of(&path).exists());
}

#[tokio::test]
async fn a_stranger_in_the_place_of_the_key_is_named_by_the_error() {
    let folder = folder();
    let path = folder.path().join("bus.sock");
    let key = path.with_added_extension("key");
    let make: [fn(&Path); 3] = [
        |key| std::os::unix::fs::symlink("elsewhere", key).expect("our folder"),
        |key| rustix::fs::mkfifoat(rustix::fs::CWD, key, Mode::RUSR).expect("our folder"),
        |key| std::fs::write(key, [1; SECRET_BYTES + 1]).expect("our folder"),
    ];
    for make in make {
        make(&key);
        if std::os::unix::fs::lchown(&key, Some(65534), None).is_err() {
            // Only root can play a stranger.
            return;
        }
        let error = bind(&path).expect_err("it is somebody else's");
        assert!(matches!(&error, ListenError::Foreign { path, uid: 65534, .. } if *path == key), "{error}");
        std::fs::remove_file(&key).expect("it was left alone");
    }
}
