//! Takes the program's code out of memory again, so that what only the start needed does not stay with us.
//!
//! Most of the resident memory of a proxy or an agent at rest is its own code: reading arguments, filters and configuration
//! takes much of it, once. The pages come back one by one, from the page cache, as far as they are in use.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// Lets go of all code of this program. What runs next is read back.
#[cfg(target_os = "linux")]
pub fn let_go() {
    let (Ok(program), Ok(maps)) = (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/maps")) else {
        return tracing::debug!("no /proc: the program's code stays in memory");
    };
    for range in code(&maps, &program) {
        // SAFETY: the range is a mapping of this process that is private, can be executed and cannot be written, so that
        // every page of it is as it is in the file, and the kernel reads it from there when it is needed again
        // (madvise(2), MADV_DONTNEED). The file cannot be changed while it runs (ETXTBSY), and nobody else maps or unmaps
        // code of this program.
        #[expect(unsafe_code, reason = "the kernel offers this by address only")]
        let result =
            unsafe { nix::libc::madvise(range.start as *mut _, range.end - range.start, nix::libc::MADV_DONTNEED) };
        tracing::debug!(bytes = range.len(), done = result == 0, "the program's code is let go");
    }
}

/// Elsewhere there is no such call, or it means something else.
#[cfg(not(target_os = "linux"))]
pub fn let_go() {}

/// Where the code of `program` is, in what `/proc/PID/maps` says (proc_pid_maps(5)). Never what could be written, or has been
/// when the program was linked together at its start: that is not in the file.
fn code(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        // A path with a space in it is none of ours, to be sure of what is compared.
        let ours = rights == "r-xp" && fields.next().is_none() && Path::new(path) == program;
        ours.then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(range).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_nobody_can_write_is_meant() {
        let maps = "\
            5500-5600 r--p 00000000 fe:00 7 /usr/bin/ztunnel\n\
            5600-7700 r-xp 00000100 fe:00 7                          /usr/bin/ztunnel\n\
            7700-7800 rwxp 00002200 fe:00 7 /usr/bin/ztunnel\n\
            7800-7900 r-xs 00002200 fe:00 7 /usr/bin/ztunnel\n\
            7900-7a00 r--p 00002300 fe:00 7 /usr/bin/ztunnel\n\
            7b00-7c00 r-xp 00000000 fe:00 8 /usr/lib/libc.so.6\n\
            7d00-7e00 r-xp 00000000 fe:00 7 /usr/bin/ztunnel (deleted)\n\
            7f00-8000 r-xp 00000000 00:00 0 [vdso]\n\
            nonsense\n";
        assert_eq!(code(maps, Path::new("/usr/bin/ztunnel")), vec![Range { start: 0x5600, end: 0x7700 }]);
    }
}
