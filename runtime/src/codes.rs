//! What each code of the runtime means, at length: `neoxc explain NXR0404`.

/// One kind of failure.
pub struct Code {
    /// The code, as messages show it.
    pub code: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What happened, and what to do.
    pub explanation: &'static str,
}

/// Every code that a [`crate::RuntimeError`] can have.
pub static CODES: &[Code] = &[
    Code {
        code: "NXR0001",
        title: "a file cannot be read or written",
        explanation: "The system refused an operation on the file; its reason is in the message. Files are written under\na temporary name and renamed when they are whole, so what was there before is still there.",
    },
    Code {
        code: "NXR0002",
        title: "a file exists already",
        explanation: "The command would replace a file that it did not make in this run. Nothing was touched. Give --force\nto replace it, or choose another name.",
    },
    Code {
        code: "NXR0101",
        title: "a data set is damaged or does not fit",
        explanation: "The .bin and .idx files of a data set contradict each other, are cut short, or hold token ids that\nthe model's vocabulary does not have. Make them again with `neoxc data preprocess`, with the\ntokenizer that the configuration names.",
    },
    Code {
        code: "NXR0201",
        title: "a plan was refused",
        explanation: "Every file of a plan is listed with its size and SHA-256 in manifest.json; a plan with a missing,\nforeign or changed file is not run, nor is one of another format version. Compile it again: with the\nkernel cache that takes well under a second.",
    },
    Code {
        code: "NXR0301",
        title: "a checkpoint is damaged or belongs to another model",
        explanation: "Tensors are found by name and must have the plan's shapes. The message names the first one that is\nmissing, left over or of another shape. Nothing was written. Resume with the\nconfiguration that wrote it; or, to go on from an older checkpoint, write its folder's name into the\nfile `latest`.",
    },
    Code {
        code: "NXR0302",
        title: "a checkpoint's run drew other samples or dropout",
        explanation: "With --resume, the seed, `seq_length`, dropout, or the training data (its files, the documents that\n`split` gives, the epochs that `train_iters` and the batch make of them, which are shuffled together)\ndiffer from those of the run that wrote the checkpoint: samples would be seen twice or not at all.\nThe message names each key that differs. If that is meant, --allow-changes goes on and only warns.",
    },
    Code {
        code: "NXR0401",
        title: "kernels cannot be loaded",
        explanation: "The plan's shared object for this target is missing or the system's loader refused it. A plan\ncompiled with x86-64-native for one machine may use instructions that another does not have:\ncompile with --target x86-64-v3 for machines that differ. Kernels for bf16 may use AMX's tile registers,\nwhich Linux (5.16 and later) gives to a process that asks; where it refuses, compile with x86-64-v4.",
    },
    Code {
        code: "NXR0402",
        title: "settings that the run needs are missing or make no sense",
        explanation: "The message names the setting. Settings come from the configuration in the plan; some may be given\non the command line instead (`neoxc run --help`).",
    },
    Code {
        code: "NXR0403",
        title: "a number is not finite",
        explanation: "A loss or a gradient norm came out infinite or NaN. The step changed no weights. The message names the\nfirst weight, in the order of the model, that holds such a value; if there is none, the step was made again\nand the message names the first kernel whose result is not finite, with its lines in the plan and in the\nconfiguration, layer, micro-batch and weights; if all gradients are finite too, the largest of them, of\nwhich the sum of squares was too large. Resume from the last checkpoint with a lower\nlearning rate, clipping, or other data.",
    },
    Code {
        code: "NXR0404",
        title: "less memory than the plan takes",
        explanation: "A plan's memory is known to the byte before anything is allocated; it is compared with what the\nmachine has free, and with the limit of the control group (container) that the process is in. Use\nsmaller micro-batches with more accumulation steps, `checkpoint_activations`, or more memory.",
    },
    Code {
        code: "NXR0501",
        title: "a tokenizer is damaged or does not fit",
        explanation: "The tokenizer's file cannot be understood, or it produces ids that the model's vocabulary does not\nhave.",
    },
    Code {
        code: "NXR0601",
        title: "ranks cannot talk to each other",
        explanation: "A call of the MPI library did not succeed, or a connection that ranks watch each other on cannot be made:\nbetween all hosts of a job any TCP port must be open. Or ranks took longer than --start-timeout to find each other\nor to leave MPI: one of them has stopped or never started. The message has the words of the library or the\nsystem; what mpirun wrote above it often says more.",
    },
    Code {
        code: "NXR0602",
        title: "processes that do not belong together",
        explanation: "mpirun must start as many processes as the plan has ranks, each with the same plan, configuration, data,\noptions and version of the program. The message names the first rank that differs, and in what. Nothing\nwas run. On several hosts all need the same files, at best on one file system.",
    },
    Code {
        code: "NXR0603",
        title: "a rank was lost",
        explanation: "A rank died, was stopped, cannot be reached any more, or failed, so that the whole job ended. The message\nnames that rank, the instruction at which this rank waited with its place in the plan, and whom it waited\nfor. Ranks tell each other that they live; one that is silent for --timeout seconds counts as lost.\nGo on from the last checkpoint with --resume.",
    },
];

/// The entry of `code`, in any case.
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|c| c.code.eq_ignore_ascii_case(code))
}
