"""diffusers' UNet with adapters on its attention; a frozen autoencoder encodes the images in every step."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig

torch.manual_seed(0)
blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
encoder = AutoencoderKL(block_out_channels=(32, 64), latent_channels=4, **blocks).requires_grad_(False)
unet = UNet2DConditionModel(
    block_out_channels=(32, 64),
    layers_per_block=1,
    cross_attention_dim=32,
    attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
).requires_grad_(False)
unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"]))
schedule = DDPMScheduler()
optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-3)
images, texts = torch.randn(4, 3, 128, 128), torch.randn(4, 7, 32)
for step in range(8):
    with torch.no_grad():
        latents = encoder.encode(images[[step % 4]]).latent_dist.sample()[..., :8, :8]
    noise, times = torch.randn_like(latents), torch.randint(1000, (1,))
    guess = unet(schedule.add_noise(latents, noise, times), times, texts[[step % 4]]).sample
    loss = (guess - noise).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
