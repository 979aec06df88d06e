//! Model families in tensor IR.
