<?php
return 'required';
