//! `neoxc completions`: scripts that name every command, of which bash's is run.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

fn script(shell: &str) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_neoxc")).args(["completions", shell]).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{shell}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn every_shell_gets_a_script_with_all_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = script(shell);
        for word in ["compile", "explain", "completions", "hf-to-neox", "append-eod", "phase"] {
            assert!(script.contains(word), "{shell} does not know `{word}`");
        }
    }
}

#[test]
fn bash_completes_a_command_a_flag_and_a_value() {
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: no bash");
        return;
    }
    for (words, wanted) in [
        (&["neoxc", "comp"][..], "compile completions"),
        (&["neoxc", "dump", "--ph"], "--phase"),
        (&["neoxc", "convert", "neox-to-hf", "--precision", "b"], "bf16"),
    ] {
        let last = words.len() - 1;
        let ask = format!(
            "COMP_WORDS=({}); COMP_CWORD={last}; _neoxc neoxc {} {}; echo ${{COMPREPLY[@]}}",
            words.join(" "),
            words[last],
            words[last - 1],
        );
        let out = Command::new("bash").arg("-c").arg(script("bash") + &ask).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), wanted, "{words:?}");
    }
}
