//! Bundles the page at `/` (the npm project in `page/`) for `src/web/page.rs`, if npm is installed.
//!
//! A published package has the bundle already, in `page/built/` (`ci/package` puts it there), and
//! needs no npm. The crate must also build from a clone without npm or without a network. There the
//! pod serves a plain page instead, and cargo prints a warning. The script runs again only when the
//! page's own files change. It must never write outside `OUT_DIR`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Source files of the bundle, and folders of them. The page's clients are those of `clients/js`.
const SOURCES: [&str; 6] = [
    "page/.npmrc",
    "page/build.js",
    "page/package-lock.json",
    "page/package.json",
    "page/src",
    "clients/js/src",
];

/// Folder of the bundle in a published package. A clone does not have it.
const BUILT: &str = "page/built";

fn main() -> io::Result<()> {
    for source in SOURCES {
        say(&format!("rerun-if-changed={source}"));
    }
    let out = out();
    let (project, bundle) = (out.join("project"), out.join("page"));
    for folder in [&project, &bundle] {
        remove(folder)?;
        fs::create_dir_all(folder)?;
    }
    let built = Path::new(BUILT);
    if built.exists() {
        for file in files(built)? {
            fs::copy(&file, bundle.join(file.file_name().unwrap_or_default()))?;
        }
    } else if let Err(reason) = build(&project, &bundle) {
        remove(&bundle)?;
        fs::create_dir(&bundle)?;
        say(&format!("warning=GET / will be a plain page, without GraphiQL: {reason}"));
        say("warning=to have it, mend that, `touch page/package.json`, and build again");
    }
    remove(&project)?;
    fs::write(out.join("page.rs"), listing(&bundle)?)
}

#[expect(clippy::disallowed_methods, reason = "a variable that cargo sets, not a setting of the relay")]
fn out() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets it").into()
}

/// Installs exactly the packages of the lock file, without running their scripts, and bundles the
/// page.
fn build(project: &Path, bundle: &Path) -> Result<(), String> {
    SOURCES.iter().try_for_each(|source| copy(source, project)).map_err(|error| error.to_string())?;
    let page = project.join("page");
    let install =
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"];
    run(Command::new("npm").args(install).current_dir(&page))?;
    run(Command::new("node").arg("build.js").arg(bundle).current_dir(&page))
}

/// Copies a file, or a folder without its folders.
fn copy(source: &str, project: &Path) -> io::Result<()> {
    let target = project.join(source);
    if Path::new(source).is_file() {
        fs::create_dir_all(target.parent().unwrap_or(project))?;
        return fs::copy(source, target).map(|_| ());
    }
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            copy(&format!("{source}/{}", entry.file_name().to_string_lossy()), project)?;
        }
    }
    Ok(())
}

/// Runs a command to its end. Its output is captured because cargo would read it as instructions.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first =
        errors.lines().find(|line| line.to_lowercase().contains("error")).unwrap_or("it does not say why");
    Err(format!("{name} failed: {first}"))
}

/// Returns a Rust expression that lists the bundle's files: name, content.
fn listing(bundle: &Path) -> io::Result<String> {
    let lines = files(bundle)?.into_iter().map(|path| {
        let name = path.file_name().unwrap_or_default();
        format!("({name:?}, include_bytes!({path:?})),\n")
    });
    Ok(format!("&[\n{}]\n", lines.collect::<String>()))
}

/// Returns the paths of a folder's files, sorted.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn remove(folder: &Path) -> io::Result<()> {
    if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) }
}

fn say(instruction: &str) {
    println!("cargo::{instruction}");
}
