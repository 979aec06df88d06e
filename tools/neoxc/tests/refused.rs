//! What a pass refuses is told with the line of the configuration, and is the user's: exit code 3.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

const MODULE: &str = r#"!w = tensor<4x2xf32, {dims = ["heads", "embed"]}>
module {
  func.func @train_step(%w: !w {neox.param = "w", neox.tensor = ["heads"]}) -> !w {
    %0 = "neox.add"(%w, %w) : (!w, !w) -> !w loc("14M.yml":2:1)
    return %0 : !w
  }
}
"#;

#[test]
fn a_refusal_shows_the_line_that_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.mlir"), MODULE).unwrap();
    std::fs::write(folder.path().join("14M.yml"), "num_layers: 2\nnum_attention_heads: 4\n")
        .unwrap();
    let opt = |tensor: &str| {
        let set = format!("tensor={tensor}");
        let args = ["opt", "m.mlir", "--passes", "assign-layouts", "--set", &set];
        let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
        command.args(args).current_dir(folder.path()).output().unwrap()
    };
    assert!(opt("2").status.success(), "{:?}", opt("2"));
    let out = opt("3");
    assert_eq!(out.status.code(), Some(3));
    let want = "\
error[NX0201]: 3 ranks of the `tensor` axis do not divide the 4 elements of `heads`
 --> 14M.yml:2:1
  |
2 | num_attention_heads: 4
  | ^ `heads` comes from here
  = hint: `model_parallel_size` must divide it
";
    assert_eq!(String::from_utf8(out.stderr).unwrap(), want);
}
