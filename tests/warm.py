"""What the server of `processes` imports once, so that a process forked from it begins at once."""

import lotune.model.optional_libraries

lotune.model.optional_libraries.hide_optional_libraries()  # as the command does

import peft  # noqa: E402, F401
import torch.distributed.run  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import lotune.generate.engine  # noqa: E402
import lotune.stages.evaluate_model  # noqa: E402
import lotune.stages.pretrain  # noqa: E402
import lotune.stages.run  # noqa: E402
import lotune.stages.tune  # noqa: E402
import lotune.train.loop  # noqa: E402
import lotune.train.train_state  # noqa: E402
