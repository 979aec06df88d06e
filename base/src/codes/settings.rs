//! NXR0402: settings that the run needs are missing or make no sense.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0402.
pub static KIND: Kind = Kind {
    code: "NXR0402",
    title: "settings that the run needs are missing or make no sense",
    explanation: "\
The message names the setting. Settings come from the configuration in the plan; some may be given on
the command line instead (`neoxc run --help`).",
    example: Example::Session(
        "\
$ neoxc run model.yml
error[NXR0402]: no training data: give `data_path`, or `train_data_paths`",
    ),
    exit: 3,
};

/// A setting is wrong as `message` says.
pub fn settings(message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message)
}
