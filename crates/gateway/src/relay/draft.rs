//! A request as an upstream is to get it: with what memory adds, in its wire and with its name for the model.

use bytes::Bytes;

use super::{defaults, refused, tools};
use crate::{
    context::{self, Additions},
    error::Refusal,
    memory_tools::MemoryTool,
    remember::Memory,
    request::Scan,
    routing::Upstream,
    snapshot::Agent,
    wire::{self, Wire},
};

/// What it is made of.
pub struct Draft<'a> {
    /// The client's wire.
    pub wire: Wire,
    /// The client's request.
    pub body: &'a Bytes,
    /// Where its parts are.
    pub scan: &'a Scan,
    /// Who is asked.
    pub agent: Option<&'a Agent>,
    /// What goes into it.
    pub memory: Option<&'a Memory>,
    /// Whether Anthropic's memory tool is offered.
    pub memory_tool: MemoryTool,
}

impl Draft<'_> {
    /// The request for `upstream`, and what was left out of it, as the client names it.
    ///
    /// # Errors
    /// 400 for what cannot be said in its wire.
    pub fn written(&self, upstream: &Upstream) -> Result<(Bytes, Vec<String>), Refusal> {
        let provider = &upstream.provider;
        let same = provider.wire == self.wire;
        let unchanged = self.scan.model.as_ref().is_some_and(|model| model.name == upstream.model);
        let wrapped = self.memory.and_then(|memory| memory.blocks.as_deref());
        let blocks = wrapped.map(|blocks| ["<trunkline-memory>\n", blocks, "\n</trunkline-memory>"].concat());
        let deltas = self.memory.map_or(&[][..], |memory| &memory.deltas);
        let recall = self.memory.and_then(|memory| memory.recall.as_deref());
        let recall = recall.map(|lines| ["<trunkline-recall>\n", lines, "\n</trunkline-recall>\n\n"].concat());
        let offered = self.memory_tool.added(self.wire, tools(self.agent, self.memory));
        let additions = Additions {
            model: Some(upstream.model.as_str()).filter(|_| same && !unchanged),
            instructions: self.agent.and_then(|agent| agent.instructions.as_deref()),
            blocks: blocks.as_deref(),
            deltas,
            recall: recall.as_deref(),
            tools: offered.as_deref(),
            include_usage: same && self.scan.stream && provider.quirks.stream_options(),
        };
        let spliced = context::splice(self.wire, self.body, self.scan, &additions);
        let (written, dropped) = if same {
            (spliced, Vec::new())
        } else {
            let (from, to, drop) = (self.wire, provider.wire, upstream.drop_params);
            let translated =
                wire::translate_request(from, to, &spliced, &upstream.model, self.scan.stream, drop).map_err(refused)?;
            (Bytes::from(translated.body), translated.dropped)
        };
        let filled = defaults::filled(provider.quirks.applied(written), &upstream.body);
        let marks = self.agent.and_then(|agent| agent.prompt_cache.as_ref()).is_some_and(|cache| cache.breakpoints);
        Ok((if marks { context::placed(provider.wire, &upstream.model, filled) } else { filled }, dropped))
    }
}
