//! `neoxc tokenizer` and `neoxc data`.

use neoxc_runtime::text::{TextTokenizer, preprocess, train};

use crate::Failure;
use crate::cli::{Data, Tokenizer};

/// `neoxc tokenizer train`.
pub fn tokenizer(a: Tokenizer) -> Result<(), Failure> {
    let Tokenizer::Train { inputs, vocab_size, output, force } = a;
    let size = train(&inputs, vocab_size, &output, force)?;
    println!("{}: {size} tokens", output.display());
    Ok(())
}

/// `neoxc data preprocess`.
pub fn data(a: Data) -> Result<(), Failure> {
    let Data::Preprocess {
        inputs,
        tokenizer_type,
        vocab_file,
        merge_file,
        append_eod,
        output_prefix,
        force,
    } = a;
    let t = TextTokenizer::open(&tokenizer_type, Some(&vocab_file), merge_file.as_deref())?;
    let made = preprocess(&inputs, &t, append_eod, &output_prefix, force, |n| {
        if n.is_multiple_of(1000) {
            eprintln!("{n} documents");
        }
    })?;
    println!(
        "{}_text_document: {} documents, {} tokens",
        output_prefix.display(),
        made.documents,
        made.tokens
    );
    Ok(())
}
