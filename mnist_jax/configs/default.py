"""The tutorial's job: 784-128-32-10 on MNIST, batches of 100, 2,000 steps of plain SGD.

    python train.py --config configs/default.py

About 4 seconds on 2 CPU cores; test accuracy 0.9014 (0.870 after 1,000 steps). Without MNIST
and without a network it trains on `mnist_5k` instead, with a warning.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the tutorial's values, from which other configs start."""
    config = ml_collections.ConfigDict()

    # Determines initial parameters, the order of the examples and all other randomness.
    config.seed = 0
    # Runs to train in one program, with the seeds seed, seed + 1, ...; see members.py.
    config.num_seeds = 1

    # Data: mnist, or another image dataset of tensorflow-datasets (fashion_mnist, cifar10);
    # mnist_5k (5,000 embedded digits); fake (random patterns, drawn by seed); or your own .npz
    # file or folder, as a path that begins with /, . or ~ or ends with .npz.
    config.dataset = "mnist"
    # Your own folder of images: height and width to resize them to; (): as they are.
    config.image_size = ()
    # Likewise: the grey that shows through transparent pixels, 0 to 255: white.
    config.image_background = 255
    # Used, with a warning, if mnist is unavailable; '': none.
    config.fallback_dataset = "mnist_5k"
    # Where the examples are: device (all in its memory), host (only the rows of a call are
    # copied to it), or auto: device if they take less than half of its memory.
    config.examples = "auto"
    # Prepared datasets; '': $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data_dir = ""
    # The dataset's original archives; '': $MNIST_JAX_MANUAL_DIR or
    # <data_dir>/downloads/manual.
    config.manual_dir = ""

    # What is learned: classification; see tasks.py. Or your own: FILE.py:NAME, module:NAME.
    config.task = "classification"
    # classification: the share of each label that is spread over all classes.
    config.label_smoothing = 0.0

    # Model: mlp or cnn; see models.py. Or your own: FILE.py:NAME, module:NAME.
    config.model = "mlp"
    # mlp: widths of the ReLU layers; (): logistic regression.
    config.hidden_sizes = (128, 32)
    # cnn: widths of the convolutions; see models.py.
    config.conv_features = (16, 32)
    # Fraction of each hidden layer's outputs that a training step sets to 0.
    config.dropout = 0.0
    # Of the computation: float32 or bfloat16. Parameters are float32.
    config.dtype = "float32"

    # A run whose best checkpoint's parameters this run starts from; '': random ones.
    config.init_from = ""
    # Regular expression: only parameters whose name (like hidden1/kernel) matches are trained;
    # '': all.
    config.trainable = ""

    # Optimizer: sgd, adam, adamw, lion or adafactor; see optimizers.py.
    config.optimizer = "sgd"
    config.learning_rate = 0.01
    # constant, cosine (decays to 0 at num_train_steps) or step (drops at drop_steps).
    config.schedule = "constant"
    # Updates in which the learning rate first increases from 0.
    config.warmup_steps = 0
    # step: updates after which the learning rate is multiplied by drop_factor.
    config.drop_steps = ()
    config.drop_factor = 0.1
    # SGD's momentum; 0: none.
    config.momentum = 0.0
    # Applies to kernels: L2 for sgd, decoupled for adamw and lion; 0: none.
    config.weight_decay = 0.0
    # Gradients with a larger global norm are scaled to it; 0: none.
    config.grad_clip_norm = 0.0
    # Steps whose gradients are averaged for one update. `step` and all fields that end with
    # _every_steps or num_train_steps count steps, the learning rate's fields count updates.
    config.accumulate_steps = 1

    # Changes the training images at random: random_shift, affine or elastic, or with strengths
    # of your own, like elastic(strength=20, shift=2); '': none; see augmentation.py.
    config.augmentation = ""

    # Training: examples per step.
    config.batch_size = 100
    config.num_train_steps = 2000
    # Steps per device call; affects the speed, not the results.
    config.steps_per_call = 100

    # Training ends when so many evaluations in a row, at multiples of eval_every_steps, have
    # not improved the task's best metric on the validation split; 0: never.
    config.early_stopping_evals = 0

    # Reporting: loss and speed.
    config.log_every_steps = 100
    # Loss and metrics of every split.
    config.eval_every_steps = 1000
    config.eval_batch_size = 1000
    # At log steps: gradient norm, histograms of gradients and params.
    config.log_histograms = False
    # First and last step of a profile, like (200, 210); (): none.
    config.profile_steps = ()
    # At each evaluation, in <workdir>/figures and TensorBoard.
    config.figures = True

    # Checkpoints.
    config.checkpoint_every_steps = 1000
    # Newest ones to keep, besides the best by validation.
    config.keep_checkpoints = 3

    return config
