//! Who may do what to a segment.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use shm::layout::{CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, MAGIC_PRODUCER, PRODUCER_HEADER_BYTES};
use shm::{
    Backing, ConsumerSegment, ConsumerView, Handle, ProducerSegment, ProducerView, SegmentError,
    check_consumer_segment, check_producer_segment,
};

use crate::hand_made::{HandMade, SEALS};

const CAPACITY: usize = 1 << 16;
const BYTES: usize = PRODUCER_HEADER_BYTES + CAPACITY;

/// Tries to map `bytes` of `descriptor`, and unmaps them.
fn map(
    descriptor: &OwnedFd,
    access: ProtFlags,
    then: impl FnOnce(*mut core::ffi::c_void),
) -> Result<(), Errno> {
    // SAFETY: no address is asked for, so no mapping that exists is replaced.
    let start =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, access, MapFlags::SHARED, descriptor, 0) }?;
    then(start);
    // SAFETY: the range was just mapped, and nothing refers to it.
    unsafe { rustix::mm::munmap(start, 4096) }
}

fn nobody_can_change(descriptor: OwnedFd, bytes: usize) {
    assert_eq!(map(&descriptor, ProtFlags::READ | ProtFlags::WRITE, |_| {}), Err(Errno::PERM));
    map(&descriptor, ProtFlags::READ, |start| {
        let writable = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is mapped, and nothing refers to it.
        let raised = unsafe { rustix::mm::mprotect(start, 4096, writable) };
        assert_eq!(raised, Err(Errno::ACCESS));
    })
    .unwrap();
    assert_eq!(rustix::io::pwrite(&descriptor, &[1; 8], 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&descriptor, 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&descriptor, 2 * bytes as u64), Err(Errno::PERM));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(&descriptor, punch, 0, 4096), Err(Errno::PERM));
    assert_eq!(rustix::fs::fcntl_add_seals(&descriptor, SealFlags::WRITE), Err(Errno::PERM));

    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let again = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(map(&again, ProtFlags::READ | ProtFlags::WRITE, |_| {}), Err(Errno::PERM));
    assert_eq!(rustix::io::pwrite(&again, &[1; 8], 0), Err(Errno::PERM));
}

fn descriptor(handle: &Handle) -> OwnedFd {
    match handle.try_clone().unwrap() {
        Handle::Descriptor(descriptor) => descriptor.into(),
        Handle::Name(name) => panic!("a memfd has no name: {name}"),
    }
}

#[test]
fn nobody_but_the_writer_can_change_a_segment() {
    let data = ProducerSegment::create(CAPACITY, Backing::Memfd).unwrap();
    nobody_can_change(descriptor(data.handle()), BYTES);
    let marks = ConsumerSegment::create(Backing::Memfd).unwrap();
    nobody_can_change(descriptor(marks.handle()), CONSUMER_SEGMENT_BYTES);
}

#[test]
fn no_mapping_of_a_segment_is_inherited_by_a_forked_child() {
    for backing in [Backing::Memfd, Backing::Named] {
        let data = ProducerSegment::create(CAPACITY, backing).unwrap();
        // Other tests of this process map segments at this moment, which are kept from children a moment after that: the number
        // of the file tells ours from theirs.
        let file = match data.handle() {
            Handle::Descriptor(_) => rustix::fs::fstat(descriptor(data.handle())),
            Handle::Name(name) => rustix::fs::stat(format!("/dev/shm{name}")),
        };
        let number = file.unwrap().st_ino.to_string();
        let _view = ProducerView::attach(data.handle().try_clone().unwrap(), CAPACITY).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = 0;
        let mut within = false;
        for line in maps.lines() {
            within |= line.split_ascii_whitespace().nth(4) == Some(&number);
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| within) {
                assert!(flags.split(' ').any(|flag| flag == "dc"), "not kept to itself: {flags}");
                (ours, within) = (ours + 1, false);
            }
        }
        assert!(ours >= 2, "both mappings were looked at");
    }
}

#[test]
fn a_capacity_out_of_bounds_is_the_callers_error() {
    for capacity in [0, 1, CAPACITY / 2, CAPACITY + 8, 3 * CAPACITY, 1 << 31, usize::MAX] {
        assert!(
            matches!(ProducerSegment::create(capacity, Backing::Memfd), Err(SegmentError::Capacity(_))),
            "{capacity}"
        );
    }
}

#[test]
fn a_segment_as_agreed_is_accepted_and_one_with_holes_is_refused_and_not_filled() {
    let honest = ProducerSegment::create(CAPACITY, Backing::Memfd).unwrap();
    check_producer_segment(honest.handle(), CAPACITY, 0).unwrap();
    let marks = ConsumerSegment::create(Backing::Memfd).unwrap();
    check_consumer_segment(marks.handle(), 0).unwrap();

    let sparse = HandMade::new(BYTES);
    sparse.word(0).store(MAGIC_PRODUCER, Ordering::Relaxed);
    sparse.seal(&SEALS);
    let blocks = || rustix::fs::fstat(&sparse).unwrap().st_blocks;
    assert!(blocks() < (BYTES / 512) as _);
    let before = blocks();
    for refused in [
        check_producer_segment(&sparse.hand_over(), CAPACITY, 0).map(drop),
        ProducerView::attach(sparse.hand_over(), CAPACITY).map(drop),
    ] {
        assert!(
            matches!(refused, Err(SegmentError::Holes { bytes, .. }) if bytes == BYTES as u64),
            "{refused:?}"
        );
    }
    assert_eq!(blocks(), before, "nobody has filled it in its writer's place");
}

#[test]
fn holes_are_filled_whose_writer_has_paid_for_as_much_behind_the_end() {
    let sparse = HandMade::new(BYTES);
    sparse.word(0).store(MAGIC_PRODUCER, Ordering::Relaxed);
    rustix::fs::fallocate(&sparse, FallocateFlags::KEEP_SIZE, BYTES as u64, BYTES as u64).unwrap();
    sparse.seal(&SEALS);
    let blocks = || rustix::fs::fstat(&sparse).unwrap().st_blocks;
    let before = blocks();
    check_producer_segment(&sparse.hand_over(), CAPACITY, 0).unwrap();
    assert!(blocks() > before, "a touch of what it is can't raise a signal");
    let _view = ProducerView::attach(sparse.hand_over(), CAPACITY).unwrap();
}

#[test]
fn a_sparse_segment_that_cannot_be_filled_is_refused() {
    let sparse = HandMade::new(BYTES);
    sparse.word(0).store(MAGIC_PRODUCER, Ordering::Relaxed);
    rustix::fs::fallocate(&sparse, FallocateFlags::KEEP_SIZE, BYTES as u64, BYTES as u64).unwrap();
    sparse.seal(&SEALS);
    let path = format!("/proc/self/fd/{}", AsFd::as_fd(&sparse).as_raw_fd());
    let unwritable = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert!(matches!(ProducerView::attach(unwritable.into(), CAPACITY), Err(SegmentError::Sparse(_))));
}

#[test]
fn a_segment_without_one_of_the_seals_is_refused() {
    for missing in SEALS {
        // A peer that leaves out the last one could still leave out nothing else, and add it later.
        let sealed = HandMade::new(BYTES);
        sealed.word(0).store(MAGIC_PRODUCER, Ordering::Relaxed);
        let rest: Vec<_> = SEALS.into_iter().filter(|&seal| seal != missing).collect();
        sealed.seal(&rest);
        let refused = ProducerView::attach(sealed.hand_over(), CAPACITY).unwrap_err();
        assert!(matches!(refused, SegmentError::NotSealed { .. }), "{missing:?}: {refused}");
        let refused = check_producer_segment(&sealed.hand_over(), CAPACITY, 0).unwrap_err();
        assert!(matches!(refused, SegmentError::NotSealed { .. }), "{missing:?}: {refused}");
    }
    let bare = HandMade::new(CONSUMER_SEGMENT_BYTES);
    let refused = ConsumerView::attach(bare.hand_over()).unwrap_err();
    assert!(matches!(refused, SegmentError::NotSealed { found: 0, .. }), "{refused}");
}

#[test]
fn a_segment_of_another_size_is_refused() {
    for bytes in [8, BYTES - 4096, BYTES - 8, BYTES + 8, 2 * BYTES] {
        let made = HandMade::as_agreed(bytes, MAGIC_PRODUCER, Backing::Memfd);
        let refused = ProducerView::attach(made.hand_over(), CAPACITY).unwrap_err();
        assert!(
            matches!(refused, SegmentError::Size { found, expected: BYTES } if found == bytes as u64),
            "{bytes}: {refused}"
        );
    }
}

#[test]
fn a_segment_with_another_magic_is_refused() {
    for magic in [0, MAGIC_CONSUMER, MAGIC_PRODUCER + 1, u64::MAX] {
        let made = HandMade::as_agreed(BYTES, magic, Backing::Memfd);
        let refused = ProducerView::attach(made.hand_over(), CAPACITY).unwrap_err();
        assert!(matches!(refused, SegmentError::Magic { found, .. } if found == magic), "{refused}");
    }
    let swapped = HandMade::as_agreed(CONSUMER_SEGMENT_BYTES, MAGIC_PRODUCER, Backing::Memfd);
    assert!(matches!(ConsumerView::attach(swapped.hand_over()), Err(SegmentError::Magic { .. })));
}

#[test]
fn a_descriptor_that_is_no_memory_is_refused() {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert!(matches!(ProducerView::attach(null.into(), CAPACITY), Err(SegmentError::NotMemory)));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(
        ProducerView::attach(OwnedFd::from(socket).into(), CAPACITY),
        Err(SegmentError::NotMemory)
    ));
}

#[test]
fn a_file_on_tmpfs_is_refused() {
    let open = rustix::fs::open(
        "/dev/shm",
        OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    );
    let file = match open {
        Ok(file) => file,
        Err(errno) => return eprintln!("skipped: no tmpfs at /dev/shm: {errno}"),
    };
    rustix::fs::ftruncate(&file, BYTES as u64).unwrap();
    let refused = ProducerView::attach(file.into(), CAPACITY).unwrap_err();
    assert!(matches!(refused, SegmentError::NotMemory | SegmentError::NotSealed { .. }), "{refused}");
}

#[test]
fn a_memfd_on_huge_pages_is_refused() {
    let capacity = 1 << 21;
    match HandMade::with_flags(2 * capacity, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB) {
        Ok(huge) => {
            huge.seal(&SEALS);
            assert!(matches!(ProducerView::attach(huge.hand_over(), capacity), Err(SegmentError::NotMemory)));
        }
        Err(errno) => {
            eprintln!("without the mapping: this host has no huge pages to give: {errno}");
            let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            let Ok(huge) = rustix::fs::memfd_create(c"huge", flags) else { return };
            rustix::fs::fcntl_add_seals(&huge, SEALS.into_iter().collect()).unwrap();
            assert!(matches!(ProducerView::attach(huge.into(), capacity), Err(SegmentError::NotMemory)));
        }
    }
}
