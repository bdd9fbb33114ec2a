//! What goes wrong, and what the caller is told.

use futures::executor::block_on;
use springhouse_online::suite::{Batch, World};
use springhouse_online::{OnlineStore, StoreErrorKind};
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore, writer_process};
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "SPRINGHOUSE_CHILD_FOLDER";
const POSITION: &str = "SPRINGHOUSE_CHILD_POSITION";

fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, &EmbeddedSettings::default()).expect("open")
}

fn write(store: &EmbeddedStore, batch: &Batch) {
    assert!(block_on(store.write(batch.writes(), batch.lane.clone(), batch.now)).expect("write"));
}

/// Batches of a world, positions from 1.
fn batches(count: i64) -> (World, Vec<Batch>) {
    let mut world = World::new(5);
    let batches = (1..=count).map(|position| world.random_batch("log", position)).collect();
    (world, batches)
}

/// Runs one test of this binary in a process of its own.
fn child(test: &str, shell: Option<&str>) -> Command {
    let exe = std::env::current_exe().expect("this test");
    match shell {
        None => {
            let mut command = Command::new(exe);
            command.args(["--exact", test, "--nocapture"]);
            command
        }
        Some(before) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{before}; exec \"$0\" --exact {test} --nocapture")]).arg(exe);
            command
        }
    }
}

fn assert_success(mut command: Command) {
    let output = command.output().expect("a child");
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_second_writer_is_told_who_has_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(writer_process(folder.path()), None);
    let store = open(folder.path());
    let error = EmbeddedStore::open(folder.path(), &EmbeddedSettings::default()).expect_err("locked");
    assert_eq!(error.kind, StoreErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    store.announce("127.0.0.1:6566").expect("announce");
    assert_success({
        let mut command = child("child_second_writer", None);
        command.env(FOLDER, folder.path()).env(POSITION, std::process::id().to_string());
        command
    });
    drop(store);
    assert_eq!(writer_process(folder.path()), None);
    open(folder.path());
}

#[test]
fn child_second_writer() {
    let (Ok(folder), Ok(pid)) = (std::env::var(FOLDER), std::env::var(POSITION)) else { return };
    let folder = Path::new(&folder);
    let error = EmbeddedStore::open(folder, &EmbeddedSettings::default()).expect_err("locked");
    assert_eq!(error.kind, StoreErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains(&format!("process {pid}")) && text.contains("127.0.0.1:6566"), "{text}");
    let writer = writer_process(folder).expect("it runs");
    assert_eq!((writer.pid.to_string(), writer.address.as_deref()), (pid, Some("127.0.0.1:6566")));
}

#[test]
fn another_process_reads_the_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, batches) = batches(9);
    let store = open(folder.path());
    for (batch, position) in batches.iter().zip(1..) {
        write(&store, batch);
        if position % 3 == 0 {
            block_on(store.checkpoint()).expect("checkpoint");
            block_on(store.activate_generation(&batch.lane.name, position as u32)).expect("activate");
        }
        if position >= 3 {
            let mut command = child("child_reader", None);
            command.env(FOLDER, folder.path()).env(POSITION, (position / 3 * 3).to_string());
            assert_success(command);
        }
    }
}

#[test]
fn child_reader() {
    let (Ok(folder), Ok(position)) = (std::env::var(FOLDER), std::env::var(POSITION)) else { return };
    let position: i64 = position.parse().expect("a number");
    let store =
        EmbeddedStore::open_read_only(Path::new(&folder), &EmbeddedSettings::default()).expect("open");
    assert_eq!(block_on(store.lanes()).expect("lanes").get("log"), Some(&position));
    let (mut world, batches) = batches(position);
    block_on(world.assert_holds(&store, &batches, "read beside the writer"));
    assert_eq!(block_on(store.active_generation("log")).expect("active"), position as u32);
    assert_eq!(block_on(store.view_status(&world.views()[0])).expect("status"), None);
    let keys = block_on(store.sample_keys(&world.views()[0], 5)).expect("sample");
    assert!(keys.iter().all(|key| (0..world.entity_count()).any(|i| world.entity(i) == key)));
    let batch = world.random_batch("log", position + 1);
    let error = block_on(store.write(batch.writes(), batch.lane.clone(), batch.now)).expect_err("refused");
    assert_eq!(error.kind, StoreErrorKind::Invalid);
}

#[test]
fn reading_needs_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let error =
        EmbeddedStore::open_read_only(folder.path(), &EmbeddedSettings::default()).expect_err("nothing");
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert!(error.to_string().contains("no store is there yet"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    // Permissions don't stop the superuser, a file in the way does.
    let path = folder.path().join("file");
    std::fs::write(&path, "not a folder").expect("write");
    for path in [path.clone(), path.join("store"), "/proc/springhouse".into()] {
        let error = EmbeddedStore::open(&path, &EmbeddedSettings::default()).expect_err("not writable");
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_an_error_with_its_path() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let permissions = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode));
    for file in ["writer.lock", "data.mdb", "lock.mdb"] {
        let path = folder.path().join(file);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).expect("chmod");
    }
    permissions(0o555).expect("chmod");
    let is_superuser = std::fs::write(folder.path().join("probe"), "").is_ok();
    let result = EmbeddedStore::open(folder.path(), &EmbeddedSettings::default());
    permissions(0o755).expect("chmod");
    if !is_superuser {
        let error = result.expect_err("read only");
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }
}

#[test]
fn a_damaged_value_is_corrupt_and_names_its_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(3);
    let view = world.views()[0].clone();
    let store = open(folder.path());
    // Many, so that some of them have a text that can be found in the file.
    for position in 1..20 {
        write(&store, &world.batch_of("log", position, &[(0, 0)]));
    }
    write(&store, &world.batch_of("other", 1, &[(0, 1)]));
    block_on(store.checkpoint()).expect("checkpoint");
    drop(store);
    let path = folder.path().join("data.mdb");
    let mut bytes = std::fs::read(&path).expect("read");
    let all = |bytes: &[u8], wanted: &[u8]| -> Vec<usize> {
        bytes.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted).map(|(at, _)| at).collect()
    };
    let mut damaged = 0;
    for row in all(&bytes, world.entity(0).as_bytes()) {
        // The value follows its key.
        for place in all(&bytes[row..row + 400], b"text ").into_iter().take(1) {
            bytes[row + place + 1] ^= 0x20;
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the value is in the file");
    std::fs::write(&path, bytes).expect("write");
    let store = open(folder.path());
    let key = [world.entity(0).clone()];
    let error = block_on(store.get_many(&view, &key)).expect_err("damaged");
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.to_string().contains(&*view.id), "{error}");
    // Others are not.
    assert!(block_on(store.get_many(&view, &[world.entity(1).clone()])).expect("get")[0].is_some());
    // Nothing is built on it either: the checkpoint that would have to merge with it fails.
    write(&store, &world.batch_of("log", 20, &[(0, 0)]));
    let error = block_on(store.checkpoint()).expect_err("damaged");
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.to_string().contains(&*view.id), "{error}");
    // The way out is a rebuild.
    block_on(store.drop_generation(&view.id, view.generation)).expect("drop");
    let batch = world.batch_of("log", 21, &[(0, 0)]);
    write(&store, &batch);
    block_on(store.checkpoint()).expect("checkpoint");
    block_on(world.assert_holds_in(&store, &view, &[batch], "rebuilt"));
}

#[test]
fn a_file_of_something_else_is_corrupt() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("data.mdb"), "this is no store ".repeat(1000)).expect("write");
    let error = EmbeddedStore::open(folder.path(), &EmbeddedSettings::default()).expect_err("no store");
    assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
}

#[test]
fn a_full_map_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = EmbeddedSettings { map_size_bytes: 1 << 20, ..EmbeddedSettings::default() };
    let store = EmbeddedStore::open(folder.path(), &settings).expect("open");
    let (world, batches) = batches(3);
    let note = |length: usize| springhouse_online::ViewStatus { note: "x".repeat(length) };
    write(&store, &batches[0]);
    block_on(store.set_view_status(&world.views()[0], note(1))).expect("there is room");
    write(&store, &batches[1]);
    let error = block_on(store.set_view_status(&world.views()[0], note(2 << 20))).expect_err("no room");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("map_size_bytes"), "{error}");
    // What the failed checkpoint took is dirty again; the note is the old one.
    assert!(store.statistics().dirty_entities > 0);
    assert_eq!(block_on(store.view_status(&world.views()[0])).expect("status"), Some(note(1)));
    block_on(world.assert_holds(&store, &batches[..2], "after the failure"));
    write(&store, &batches[2]);
    block_on(store.checkpoint()).expect("without the note there is room");
    assert_eq!(store.statistics().dirty_entities, 0);
    drop(store);
    let store = open(folder.path());
    block_on(world.assert_holds(&store, &batches, "after opening again"));
}

/// The shell limits how large a file may get: as good as a full disk.
#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, batches) = batches(200);
    {
        let store = open(folder.path());
        write(&store, &batches[0]);
        block_on(store.checkpoint()).expect("checkpoint");
    }
    let mut command = child("child_on_a_full_disk", Some("trap '' XFSZ; ulimit -f 64"));
    command.env(FOLDER, folder.path());
    assert_success(command);
    let store = open(folder.path());
    let reached = block_on(store.lanes()).expect("lanes")["log"] as usize;
    assert!((1..200).contains(&reached), "{reached}");
    let (world_then, _) = self::batches(reached as i64);
    block_on(world_then.assert_holds(&store, &batches[..reached], "the last good checkpoint"));
    for batch in &batches[reached..] {
        write(&store, batch);
    }
    block_on(store.checkpoint()).expect("there is room again");
    block_on(world.assert_holds(&store, &batches, "done again"));
}

#[test]
fn child_on_a_full_disk() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (world, batches) = batches(200);
    let store = open(Path::new(&folder));
    let mut failures = 0;
    for batch in &batches[1..] {
        write(&store, batch);
        // Fatter and fatter notes, until the file may not grow.
        let note = springhouse_online::ViewStatus { note: "x".repeat(batch.lane.position as usize * 500) };
        let view = &world.views()[(batch.lane.position % 3) as usize];
        if let Err(error) = block_on(store.set_view_status(view, note)) {
            assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
            assert!(store.statistics().dirty_entities > 0);
            failures += 1;
        }
    }
    assert!(failures > 0, "the limit was reached");
    block_on(world.assert_holds(&store, &batches, "memory still has everything"));
}
