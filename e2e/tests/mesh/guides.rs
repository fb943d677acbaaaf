//! README, guides and what is beside them as their readers walk them: every command runs, and says what the page says that it says.

mod page;
mod shell;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

use fairway_lab::binaries;

use self::page::Block;
use self::shell::Shell;
use super::labs;

/// Environment variable with a part of the name of the only pages to walk.
const ONLY: &str = "FAIRWAY_PAGE";
/// Where pages are.
const FOLDERS: [&str; 3] = ["docs", "docs/guides", "manifests/samples"];
/// Pages walked at a time: the tests are made for two processors, and have other tests beside this one.
const AT_A_TIME: usize = 2;
/// What pages say that need an API server.
const NEEDS_KUBERNETES: &str = "fairway lab up --kubernetes";
/// Blocks that run at least, so that this test notices when it finds no commands any more.
const LEAST_RUN: usize = 80;

#[test]
fn every_command_of_readme_and_guides_runs() {
    if !labs::can_run("the commands of the guides") {
        return;
    }
    labs::build();
    let only = env::var(ONLY).unwrap_or_default();
    let chosen: VecDeque<PathBuf> = pages().into_iter().filter(|page| name(page).contains(&only)).collect();
    let waiting = Mutex::new(chosen);
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(page) = next(&waiting) {
                    let walked = walk(&page);
                    told.lock().unwrap().push(walked);
                }
            });
        }
    });
    let told = told.into_inner().unwrap();
    let failures: Vec<&str> = told.iter().filter_map(|walked| walked.as_ref().err()).map(String::as_str).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let run: usize = told.iter().flatten().sum();
    assert!(run >= LEAST_RUN || !only.is_empty(), "only {run} blocks of commands were found");
}

#[test]
fn a_command_that_fails_is_told_by_page_and_line() {
    let page = "A page.\n\n```sh\nword=shown\ntrue\n```\n\n```sh\necho \"it is $word\"\n```\n\n```text\n… shown\n```\n\n\
        ```sh\ntrue\nfalse | cat\n```\n\n```sh\ntouch not-reached\n```\n";
    let shell = Shell::new("failing");
    let failure = steps("page.md", &page::blocks(page).unwrap(), &shell).unwrap_err();
    assert!(failure.starts_with("page.md:17: ") && failure.contains("failed at line 18: "), "{failure}");
    assert!(!shell.directory().join("not-reached").exists());
}

#[test]
fn what_a_page_says_is_compared() {
    let page = "```sh\necho one two\n```\n```text\none three\n```\n";
    let blocks = page::blocks(page).unwrap();
    let failure = shell::Shell::new("comparing").look(&blocks[0], std::time::Duration::ZERO).unwrap_err();
    assert!(failure.contains("one two") && failure.contains("one three"), "{failure}");
}

fn next(waiting: &Mutex<VecDeque<PathBuf>>) -> Option<PathBuf> {
    waiting.lock().unwrap().pop_front()
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// README, and every page in these folders.
fn pages() -> Vec<PathBuf> {
    let folders = FOLDERS.iter().flat_map(|folder| fs::read_dir(checkout().join(folder)).unwrap());
    let files = folders.map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages.insert(0, checkout().join("README.md"));
    pages
}

/// A page as it is named in messages.
fn name(page: &Path) -> String {
    page.strip_prefix(checkout()).unwrap_or(page).display().to_string()
}

/// Walks one page in a lab of its own: how many blocks ran, or what failed where.
fn walk(path: &Path) -> Result<usize, String> {
    let name = name(path);
    let blocks = page::blocks(&fs::read_to_string(path).unwrap()).map_err(|problem| format!("{name}:{problem}"))?;
    for block in &blocks {
        if let Some(reason) = &block.not_run {
            labs::say(&format!("{name}:{}: not run: {reason}", block.line));
        }
    }
    let run: Vec<Block> = blocks.into_iter().filter(|block| block.not_run.is_none()).collect();
    if run.iter().any(|block| block.commands.contains(NEEDS_KUBERNETES)) && binaries::kubernetes().is_none() {
        labs::skip(&name, "there is no API server; `./dev setup` builds it where Go is installed");
        return Ok(0);
    }
    if run.is_empty() {
        return Ok(0);
    }
    let title = name.trim_start_matches("docs/").trim_end_matches(".md").replace('/', "-").to_lowercase();
    steps(&name, &run, &Shell::new(&title))?;
    Ok(run.len())
}

/// Runs blocks in order until one fails.
fn steps(page: &str, blocks: &[Block], shell: &Shell) -> Result<(), String> {
    for block in blocks {
        let result = if block.output.is_some() { shell.look(block, shell::PATIENCE) } else { shell.run(block) };
        result.map_err(|failure| format!("{page}:{}: {failure}", block.line))?;
    }
    Ok(())
}
