//! What can be wrong with a file of weights that somebody else wrote.

/// Why a weights file cannot be used; says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsProblem {
    /// Neither safetensors nor an archive of `torch.save`.
    #[error(
        "it is neither a safetensors file nor an archive of torch.save (its first bytes are {first}); check the path"
    )]
    Unknown {
        /// The first bytes, escaped.
        first: String,
    },
    /// The format `torch.save` wrote before PyTorch 1.6.
    #[error(
        "it is in the format that torch.save wrote before PyTorch 1.6, which is not read; load and save it again in \
         PyTorch 1.6 or later"
    )]
    Legacy,
    /// The file ends before something it promises.
    #[error("it ends before {what}; it may be truncated: copy it again")]
    Truncated {
        /// What is missing.
        what: String,
    },
    /// Something in it contradicts itself.
    #[error("{what}; the file is damaged or was not written by torch.save: copy it again")]
    Damaged {
        /// What contradicts what.
        what: String,
    },
    /// A feature of the container that is not read.
    #[error("{what}; load it in PyTorch and save it again with torch.save and default settings")]
    NotRead {
        /// The feature.
        what: String,
    },
    /// The pickle asks for something that is no tensor.
    #[error(
        "its pickle asks for {name:?}, which is no tensor: pickles are parsed here, never executed; if you trust the \
         file, load it in PyTorch and save its state dict alone"
    )]
    Refused {
        /// The Python object asked for, with its module.
        name: String,
    },
    /// It is larger than anything this program has a use for.
    #[error("{what} exceeds {limit}, the most that is read; is it a state dict?")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How much is allowed, in words.
        limit: String,
    },
    /// A tensor that is not in it.
    #[error("it has no tensor {name:?}; {nearest}")]
    NoTensor {
        /// The name asked for.
        name: String,
        /// What it has.
        nearest: String,
    },
}

impl WeightsProblem {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    pub(crate) fn truncated(what: impl Into<String>) -> Self {
        Self::Truncated { what: what.into() }
    }

    pub(crate) fn too_large(what: impl Into<String>, limit: impl Into<String>) -> Self {
        Self::TooLarge { what: what.into(), limit: limit.into() }
    }
}
