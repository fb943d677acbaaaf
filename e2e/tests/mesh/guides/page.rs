//! Commands in a page of Markdown, and whether what they print is what the page shows.
//!
//! A block of `sh` is run. One with the comment `<!-- not run: REASON -->` above it is not; before one with the comment
//! `<!-- before: COMMANDS -->` these are run, which the page takes for granted. Where a block of `text` follows at once, it is
//! what the commands print: `…` stands for any text, and alone on a line for any lines.

/// Above a block: why no test can run it.
const NOT_RUN: (&str, &str) = ("<!-- not run:", "-->");
/// Above a block: what is done before it.
const BEFORE: (&str, &str) = ("<!-- before:", "-->");
/// What stands for anything.
const ANYTHING: char = '…';
/// What commands are written as, and other names of the same, which nothing would run.
const COMMANDS: &str = "sh";
const OTHER_NAMES: [&str; 4] = ["bash", "shell", "console", "zsh"];

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of the page that its first command is on.
    pub(crate) line: usize,
    pub(crate) commands: String,
    /// What the page says that they print.
    pub(crate) output: Option<String>,
    /// Why they are not run.
    pub(crate) not_run: Option<String>,
}

/// Something between two fences.
struct Fenced<'a> {
    language: &'a str,
    /// Line of the page that its first line is on.
    line: usize,
    text: String,
    /// The last line before it that is not empty.
    above: &'a str,
}

/// Blocks of commands in a page, in order; what is wrong with the page, by line, otherwise.
pub(crate) fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let fenced = fenced(page)?;
    let mut blocks = Vec::new();
    for (index, fence) in fenced.iter().enumerate() {
        if OTHER_NAMES.contains(&fence.language) {
            return Err(format!("{}: write `sh`, so that it is run", fence.line));
        }
        if fence.language != COMMANDS {
            continue;
        }
        if let Some(commands) = said(fence.above, BEFORE) {
            let line = fence.line - 2;
            blocks.push(Block { line, commands: format!("{commands}\n"), output: None, not_run: None });
        }
        let not_run = said(fence.above, NOT_RUN);
        if not_run.is_some_and(str::is_empty) {
            return Err(format!("{}: say why it is not run", fence.line));
        }
        let printed = fenced.get(index + 1).filter(|next| next.language == "text" && is_fence(next.above));
        blocks.push(Block {
            line: fence.line,
            commands: fence.text.clone(),
            output: printed.map(|next| next.text.clone()),
            not_run: not_run.map(str::to_owned),
        });
    }
    Ok(blocks)
}

/// What a comment says, if it is of this kind.
fn said<'a>(line: &'a str, (begin, end): (&str, &str)) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix(end).map(str::trim)
}

fn is_fence(line: &str) -> bool {
    line.trim_start().starts_with("```")
}

fn fenced(page: &str) -> Result<Vec<Fenced<'_>>, String> {
    let mut found = Vec::new();
    let mut above = "";
    let mut lines = (1..).zip(page.lines());
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let mut text = String::new();
            loop {
                let Some((_, inside)) = lines.next() else { return Err(format!("{number}: a block without an end")) };
                if is_fence(inside) {
                    break;
                }
                text = text + inside + "\n";
            }
            found.push(Fenced { language: language.trim(), line: number + 1, text, above });
            above = "```";
        } else if !line.trim().is_empty() {
            above = line.trim();
        }
    }
    Ok(found)
}

/// Whether commands have printed what the page shows. Columns and empty lines do not count.
pub(crate) fn shows(expected: &str, printed: &str) -> bool {
    fn words(text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect()
    }
    lines_fit(&words(expected), &words(printed))
}

fn lines_fit(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.chars().eq([ANYTHING]) => {
            (0..=printed.len()).any(|skipped| lines_fit(rest, &printed[skipped..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, others)| line_fits(first, line) && lines_fit(rest, others))
        }
    }
}

fn line_fits(expected: &str, printed: &str) -> bool {
    let Some((head, rest)) = expected.split_once(ANYTHING) else { return expected == printed };
    let Some(after) = printed.strip_prefix(head) else { return false };
    let ends = after.char_indices().map(|(at, _)| at).chain([after.len()]);
    ends.map(|at| &after[at..]).any(|tail| line_fits(rest, tail))
}

#[test]
fn blocks_are_found_with_what_they_print_and_why_they_are_not_run() {
    let page = "Text.\n\n```sh\none\ntwo\n```\n\n```text\nout\n```\n\nMore.\n\n<!-- not run: needs Docker -->\n\
        ```sh\nthree\n```\nMore.\n```text\nno output\n```\n```yaml\n- a\n```\n  ```sh\nfour\n  ```\n\
        <!-- before: first -->\n```sh\nfive\n```\n";
    let block = |line, commands: &str, output: Option<&str>, not_run: Option<&str>| Block {
        line,
        commands: commands.to_owned(),
        output: output.map(str::to_owned),
        not_run: not_run.map(str::to_owned),
    };
    let expected = [
        block(4, "one\ntwo\n", Some("out\n"), None),
        block(16, "three\n", None, Some("needs Docker")),
        block(26, "four\n", None, None),
        block(28, "first\n", None, None),
        block(30, "five\n", None, None),
    ];
    assert_eq!(blocks(page).unwrap(), expected);
    for (wrong, says) in [
        ("```bash\nx\n```\n", "2: write `sh`"),
        ("```console\n$ x\n```\n", "2: write `sh`"),
        ("```sh\nx\n", "1: a block without an end"),
        ("<!-- not run: -->\n```sh\nx\n```\n", "3: say why"),
    ] {
        assert!(blocks(wrong).unwrap_err().starts_with(says), "{wrong}");
    }
}

#[test]
fn what_is_printed_is_compared_loosely_where_the_page_says_so() {
    for (expected, printed, fits) in [
        ("a b", "a   b\n\n", true),
        ("a b", "a c", false),
        ("a", "a\nb", false),
        ("a\n…", "a\nb\nc", true),
        ("…\nc", "a\nb\nc", true),
        ("…\nb\n…", "a\nc", false),
        ("a\n…", "a", true),
        ("200 … to …", "200 hello to [fd00::1]:5", true),
        ("200 … to …", "error: no way to anybody", false),
        ("…fe…", "cafe", true),
        ("", "x", false),
    ] {
        assert_eq!(shows(expected, printed), fits, "{expected:?} and {printed:?}");
    }
}
