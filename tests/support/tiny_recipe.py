"""The smallest recipe for this machine, as a person would write it."""

TINY = """\
name: tiny
teacher: {kind: none}
student:
  {kind: new, characters: "0123456789", layers: 1, hidden_size: 8, heads: 1, intermediate_size: 8}
data: {kind: generated, rows: 10, prompt: "{question}", completion: "{answer}"}
training: {steps: 100, batch_size: 2, learning_rate: 0.001}
hardware: {local: true, usd_per_hour: 3.60}
budget: {usd: 1.00}
"""
