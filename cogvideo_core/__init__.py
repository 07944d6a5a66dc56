"""The mathematics, models and files of CogVideoX dataset editing; it knows nothing of Prefect."""

import logging

# What torchao, where it is installed, reports at each start: kernels that are not for this machine
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
