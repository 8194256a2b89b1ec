//! Output files: none overwrites another, and none is left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::MHA;
use crate::sandbox::Sandbox;

/// A sandbox with its own checkpoint in `ck`, and small files.
fn with_checkpoint() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("ck")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(MHA);
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(root.join(name), sandbox.path("ck").join(name)).unwrap();
    }
    for name in ["map", "text.json", "a.rules", "c.json", "c.safetensors"] {
        std::fs::write(sandbox.path(name), format!("the file {name}")).unwrap();
    }
    std::fs::write(sandbox.path("graph.ir"), "graph @g(%x: f32[1, 1]) {\n  return %x\n}\n").unwrap();
    sandbox
}

/// All files below a directory with their contents, and the directories.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[cfg(unix)]
#[test]
fn an_output_is_no_input_and_no_other_output() {
    let sandbox = with_checkpoint();
    sandbox.ok(&["compile", &sandbox.text("ck"), "-o", &sandbox.text("x.plan"), "--no-cache"]);
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(sandbox.path(to), sandbox.path(from)).unwrap();
    link("ck/model.safetensors", "link");
    link("ck", "folder");
    std::fs::hard_link(sandbox.path("ck/config.json"), sandbox.path("hard")).unwrap();
    std::fs::create_dir(sandbox.path("built")).unwrap();
    link("ck/config.json", "built/model.plan");
    std::fs::create_dir(sandbox.path("dump")).unwrap();
    link("map", "dump/kernels.txt");
    let before = contents(sandbox.folder());
    let mixed = "--precision mixed --target-bits 8 --precision-text @text.json";
    let lines = [
        "compile @ck -o @ck/model.safetensors",
        "compile @ck -o @ck/config.json",
        "compile @ck -o @link",
        "compile @ck -o @hard",
        "compile @folder -o @ck/../ck/config.json --weights dummy",
        "compile @ck -o @folder/model.safetensors --weights dummy",
        "compile @ck -o @map --precision-map @map",
        "compile @ck -o @a.rules --rewrites @a.rules",
        "compile @ck -o @c.json --precision int4-awq --calibration @c.json",
        "compile @ck -o @c.safetensors --precision int4-awq --calibration @c.json",
        "compile @ck -o @map --timing-cache @map",
        "compile @ck -o @new --timing-cache @new",
        "compile @ck -o @x --timing-cache @ck/config.json --timing-cache-mode write",
        "compile @ck -o @text.json --gate kl<1 --gate-text @text.json",
        "compile @ck -o @x --dump-dir @dump --emit kernels --precision-map @map",
        "compile @ck -o @dump/graph.ir --dump-dir @dump --emit ir",
        &format!("compile @ck -o @x {mixed} --precision-table @text.json"),
        &format!("compile @ck -o @x {mixed} --precision-html @x"),
        &format!("compile @ck -o @x {mixed} --precision-html @t --precision-table @t"),
        "build --model-dir @ck --output-dir @built",
        "quantize @ck -o @ck --precision int8-weight",
        &format!("quantize @ck -o @new {mixed} --precision-table @ck/config.json"),
        &format!("quantize @ck -o @new {mixed} --precision-table @new"),
        "calibrate @ck --text @text.json -o @text.json",
        "calibrate @ck --text @text.json -o @ck/model.json",
        "calibrate --merge @c.json @text.json -o @c.json",
        "generate @x.plan --prompt-ids 1 --logits @x.plan",
        "generate @ck --prompt-ids 1 --logits @link",
        "inspect @x.plan --html @x.plan",
        "inspect @c.json --html @c.json",
        "opt @graph.ir --emit ir --dump-dir @",
    ];
    for line in lines {
        let args: Vec<String> = line
            .split(' ')
            .map(|word| word.strip_prefix('@').map_or_else(|| word.to_owned(), |name| sandbox.text(name)))
            .collect();
        let output = sandbox.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {errors}");
        let known = ["is an input", "is used by two outputs", "already exists", "is also the name of an --emit text"];
        assert!(known.iter().any(|reason| errors.contains(reason)), "{line}: {errors}");
        assert!(contents(sandbox.folder()) == before, "{line}");
    }
    // files that are not inputs may be replaced, in a checkpoint directory, too
    for _ in 0..2 {
        sandbox.ok(&["compile", &sandbox.text("ck"), "-o", &sandbox.text("ck/model.plan"), "--no-cache"]);
        sandbox.ok(&["opt", &sandbox.text("graph.ir"), "--emit", "ir-after-all", "--dump-dir", &sandbox.text("")]);
    }
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let (old, new) = (sandbox.text("old.plan"), sandbox.text("new.plan"));
    std::fs::write(&old, "").unwrap();
    std::fs::set_permissions(&old, PermissionsExt::from_mode(0o600)).unwrap();
    for (plan, mask, expected) in [(&old, "022", 0o600), (&new, "027", 0o640)] {
        let command = ["compile", MHA, "-o", plan, "--no-cache"];
        assert!(sandbox.after(&format!("umask {mask}"), &command).output().unwrap().status.success());
        assert_eq!(std::fs::metadata(plan).unwrap().permissions().mode() & 0o777, expected, "{plan}");
    }
}

/// A limit on the size of files fails writes as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_no_files() {
    let sandbox = Sandbox::new();
    let temporary = sandbox.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let [plan, folder, calibration, text] = ["x.plan", "x", "x.json", "text"].map(|name| sandbox.text(name));
    std::fs::write(&text, "This function returns a `Result`.").unwrap();
    let commands: [&[&str]; 4] = [
        &["compile", MHA, "-o", &plan],
        &["quantize", MHA, "-o", &folder, "--precision", "int8-weight"],
        &["generate", MHA, "--prompt-ids", "1", "--no-cache"],
        &["calibrate", "models/demo", "--text", &text, "-o", &calibration, "--max-len", "8", "--target", "cpu"],
    ];
    for command in commands {
        let output = sandbox.after("ulimit -f 64", command).env("TMPDIR", &temporary).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{command:?}: {errors}");
        assert!(errors.contains("large") || errors.contains("space"), "{command:?}: {errors}");
        let left = contents(sandbox.folder()).into_keys();
        let left: Vec<PathBuf> = left.filter(|path| *path != temporary && *path != sandbox.path("text")).collect();
        assert_eq!(left, [""; 0].map(PathBuf::from), "{command:?}");
    }
}

/// Kernels are timed with plans among the system's temporary files.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_by_those_that_are_stopped() {
    let sandbox = Sandbox::new();
    let temporary = sandbox.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let names = || {
        let entries = std::fs::read_dir(&temporary).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let stop = |signal: &str| {
        let (plan, timings) = (sandbox.text("x.plan"), sandbox.text(&format!("{signal}.json")));
        let args = ["compile", "models/demo", "-o", &plan, "--target", "cpu", "--timing-cache", &timings];
        let mut command = sandbox.command(&args);
        let mut child = command.env("TMPDIR", &temporary).stderr(std::process::Stdio::null()).spawn().unwrap();
        while names().is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it ends before it times anything");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        child.wait().unwrap()
    };
    for signal in ["INT", "TERM", "HUP"] {
        assert_eq!(stop(signal).code(), Some(130), "{signal}");
        assert_eq!(names(), [""; 0], "{signal}");
    }
    // it may have been killed between two plans
    while names().is_empty() {
        assert_eq!(stop("KILL").code(), None);
    }
    // the leftover file has no owner; this one has
    std::fs::create_dir(temporary.join(".smelt-mine.partial")).unwrap();
    let mine = std::fs::File::open(temporary.join(".smelt-mine.partial")).unwrap();
    mine.lock().unwrap();
    assert!(names().len() > 1);
    let args = ["generate", MHA, "--prompt-ids", "1", "--max-tokens", "1", "--no-cache"];
    assert!(sandbox.command(&args).env("TMPDIR", &temporary).output().unwrap().status.success());
    assert_eq!(names(), [".smelt-mine.partial"]);
}
