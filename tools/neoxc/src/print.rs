//! Printing that never panics: in every file of this program these macros stand in the place of the standard library's,
//! which panic where nobody reads or the disk is full. `neoxc_runtime::say` says what happens then.

macro_rules! print {
    ($($text:tt)*) => { ::neoxc_runtime::say::out(format_args!($($text)*)) };
}

macro_rules! println {
    ($($text:tt)*) => { ::neoxc_runtime::say!($($text)*) };
}

macro_rules! eprint {
    ($($text:tt)*) => { ::neoxc_runtime::say::err(format_args!($($text)*)) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { ::neoxc_runtime::tell!($($text)*) };
}
