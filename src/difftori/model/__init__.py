"""The world model: encoder, latent dynamics, reward, policy and critics."""
