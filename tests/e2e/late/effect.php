<?php
/* Not only declarations: it must not be run before the image. */
define('EFFECT', 'effect' . (Kept::$busy ? '' : ' before the image'));
