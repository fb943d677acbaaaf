//! Runs a short program to its end, and ends it when it hangs.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::KernelError;

/// Longest message of a failed program that is passed on, in bytes.
const MAX_MESSAGE: usize = 600;
/// Pause between two looks at a program that has closed its output and not ended yet, which takes it microseconds.
const END_PERIOD: Duration = Duration::from_millis(1);

/// A program, the package that has it, and how long it may take.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) limit: Duration,
}

impl Program {
    /// Runs it in the namespace of this thread and returns what it printed.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Result<String, KernelError> {
        let run_error = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                KernelError::MissingProgram { program: self.name, package: self.package }
            } else {
                KernelError::Run { program: self.name, error }
            }
        };
        let mut child = Command::new(self.name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run_error)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input says why on its error output. A script fits into the pipe.
            let _ = stdin.write_all(input.as_bytes());
        }
        let finished = finish(&mut child, Instant::now() + self.limit);
        if !matches!(finished, Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let late = KernelError::Late { program: self.name, limit: self.limit };
        let (status, output, complaint) = finished.map_err(run_error)?.ok_or(late)?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        let mut message = String::from_utf8_lossy(&complaint).trim().replace('\n', " | ");
        if let Some((end, _)) = message.char_indices().find(|(position, _)| *position >= MAX_MESSAGE) {
            message.truncate(end);
        }
        Err(KernelError::Refused { program: self.name, message })
    }
}

type Finished = (ExitStatus, Vec<u8>, Vec<u8>);

/// Reads both outputs to their end and waits for the program's own; nothing when that takes until `deadline`.
fn finish(child: &mut Child, deadline: Instant) -> io::Result<Option<Finished>> {
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    while stdout.is_some() || stderr.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let descriptors = stdout.iter().map(AsFd::as_fd).chain(stderr.iter().map(AsFd::as_fd));
        let mut interest: Vec<PollFd<'_>> = descriptors.map(|file| PollFd::new(file, PollFlags::POLLIN)).collect();
        match poll(&mut interest, timeout) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = interest.iter().map(|file| file.any().unwrap_or_default()).collect::<Vec<_>>().into_iter();
        if stdout.is_some() && ready.next().unwrap_or_default() {
            drain(&mut stdout, &mut output)?;
        }
        if stderr.is_some() && ready.next().unwrap_or_default() {
            drain(&mut stderr, &mut complaint)?;
        }
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some((status, output, complaint)));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(END_PERIOD);
    }
}

/// Reads what is there; closes at the end.
fn drain(source: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = source else { return Ok(()) };
    let mut buffer = [0; 16 * 1024];
    match open.read(&mut buffer) {
        Ok(0) => *source = None,
        Ok(count) => into.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    fn shell(script: &str) -> Result<String, KernelError> {
        Program { name: "sh", package: "dash", limit: LIMIT }.run(&["-c", script], "input")
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        // It holds its outputs, its child holds them, it closed them, it never reads.
        for script in ["exec sleep 60", "sleep 60 & wait", "exec >&- 2>&-; sleep 60"] {
            let error = shell(script).unwrap_err();
            assert!(matches!(error, KernelError::Late { .. }), "{script}: {error}");
        }
    }

    #[test]
    fn output_longer_than_a_pipe_and_failures_are_read_whole() {
        let long = shell("head -c 300000 /dev/zero | tr '\\0' x; echo no >&2").unwrap();
        assert_eq!(long.len(), 300_000);
        assert_eq!(shell("cat").unwrap(), "input");
        let error = shell("echo one >&2; echo two >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("one | two"), "{error}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let program = Program { name: "fairway-no-such-program", package: "some-package", limit: LIMIT };
        let error = program.run(&[], "").unwrap_err();
        assert!(error.to_string().contains("apt-get install some-package"), "{error}");
    }
}
